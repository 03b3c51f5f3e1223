"""Action `claude`: runs the Claude CLI in the project's sandbox, passes its lines on as output, and judges its end.

A CLI that is silent for too long has stalled. It is asked to end by itself before its sandbox is terminated, because
only the CLI can end what its Bash tool has started, and save its session.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from pydantic import JsonValue

from modal_app.actions.claude_command import CONFIG_DIR, Command, ModelPatience, claude_command
from modal_app.actions.claude_retries import retry_of
from modal_app.actions.claude_stream import ClaudeStream, Item, Message, Plain, Text
from modal_app.actions.claude_verdict import Verdict
from modal_app.actions.output import Output, Piece
from modal_app.actions.performed import Performed
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import ModelRetry, Usage
from modal_app.contract.requests import ClaudeRequest
from modal_app.endpoint_settings import Timeouts
from modal_app.model.grants import ModelGrant
from modal_app.sandboxes.project_sandbox import Job

GRACE_S = 5.0  # for the CLI to end when it is asked to; it takes 0.2 s
_LOOK_S = 0.25
_CANNOT_CREATE = 73  # EX_CANTCREAT of sysexits.h, an exit code that the CLI never has
_UNKNOWN_EXIT_CODE = -1  # the exit code of a CLI whose end was not seen
_PID_FILE = "/tmp/claude.pid"  # noqa: S108  # a path in the sandbox, which is this run's alone
# Makes the directory of the CLI's sessions, with a .gitignore: they are no part of the project's work.
_START = (
    f'mkdir -p "$1" && [ -w "$1" ] || exit {_CANNOT_CREATE}; '
    '[ -e "$1/../.gitignore" ] || echo "*" > "$1/../.gitignore"; '
    'echo "$$" > "$2"; shift 2; exec "$@"'
)
_END = 'kill -TERM "$(cat "$1")"'


async def run(
    request: ClaudeRequest,
    job: Job,
    output: Output,
    grant: ModelGrant,
    timeouts: Timeouts,
    *,
    spent: Callable[[Usage], None],
    retried: Callable[[ModelRetry], None],
) -> Performed:
    """Run the CLI and return its answer, or the error that it ended with; `stalled` after `stall_s` seconds of silence.

    `spent` is called with what the run has used of the model, however it ends, `retried` each time that the CLI asks
    the model again.
    """
    patience = ModelPatience(headers_s=timeouts.model_headers_s, idle_s=timeouts.model_bytes_s)
    command = claude_command(
        request.options, base_url=grant.base_url, token=grant.token, patience=patience, config_dir=CONFIG_DIR
    )
    telling = _Telling(output, wants_structured=request.json_schema is not None, retried=retried)
    try:
        verdict = await _verdict(command, job, telling, request.timeout_s, timeouts.stall_s)
        return _performed(verdict, resumed=request.resume)
    finally:
        spent(_usage(telling.stream.verdict(_UNKNOWN_EXIT_CODE)))


async def _verdict(command: Command, job: Job, telling: "_Telling", timeout_s: float | None, stall_s: float) -> Verdict:
    running = asyncio.create_task(_exec(command, job, telling, timeout_s))
    watching = asyncio.create_task(telling.watch(stall_s))
    try:
        await asyncio.wait([running, watching], return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await _end(job, running)
    finally:
        for task in (running, watching):
            task.cancel()
        await asyncio.gather(running, watching, return_exceptions=True)
    await telling.finish()
    try:
        if not watching.cancelled():
            watching.result()  # raises what the CLI was ended for
        code = running.result()
        if code == _CANNOT_CREATE:  # the CLI itself would hang for seconds, and then lose the session without a message
            sentence = f"sessions cannot be kept: {CONFIG_DIR} is not a directory that the job can write to"
            raise ContractError(ErrorCode.PROCESS_FAILED, sentence, exit_code=code)
        return telling.stream.verdict(code)
    except ContractError as error:
        return replace(telling.stream.verdict(_UNKNOWN_EXIT_CODE), error=error)


class _Telling:
    """Turns what the CLI prints into pieces of output, in order, and notices when the CLI has to be ended."""

    def __init__(self, output: Output, *, wants_structured: bool, retried: Callable[[ModelRetry], None]) -> None:
        self.stream = ClaudeStream(clock=time.monotonic, wants_structured=wants_structured)
        self._output = output
        self._retried = retried
        self._turn = asyncio.Lock()
        self._fed = asyncio.Event()

    async def __call__(self, channel: str, data: bytes) -> None:
        """Take bytes that the CLI printed; raises ContractError `output_limit`."""
        if channel != "stdout":
            await self._output(channel, data)
            return
        self._output.count(data)
        async with self._turn:
            await self._tell(self.stream.feed(data))
        self._fed.set()

    async def watch(self, stall_s: float) -> None:
        """Pass on words that are held back, when they are due. Never returns.

        Raises ContractError as soon as the run cannot succeed any more: the stream's own failure, or `stalled`.
        """
        while True:
            self._fed.clear()
            if self.stream.failure is not None:
                raise self.stream.failure
            if self.stream.quiet_s >= stall_s:
                raise ContractError(ErrorCode.STALLED, f"the Claude CLI has said nothing for {stall_s:g} seconds")
            due = self.stream.due_at
            wait_s = _LOOK_S if due is None else min(_LOOK_S, max(0.0, due - time.monotonic()))
            try:
                async with asyncio.timeout(wait_s):
                    await self._fed.wait()
            except TimeoutError:
                async with self._turn:
                    await self._tell(self.stream.poll())

    async def finish(self) -> None:
        """Pass on everything that is held back, at the end of the output."""
        async with self._turn:
            await self._tell(self.stream.finish())
        await self._output.flush()

    async def _tell(self, items: list[Item]) -> None:
        for item in items:
            await self._output.tell(_piece(item))
            if isinstance(item, Message) and (retry := retry_of(item.value)) is not None:
                self._retried(retry)


async def _exec(command: Command, job: Job, telling: _Telling, timeout_s: float | None) -> int:
    argv = ("sh", "-c", _START, "sh", CONFIG_DIR, _PID_FILE, *command.argv)
    return await job.exec(argv, stdin=command.stdin, env=command.env, on_output=telling, timeout_s=timeout_s)


async def _end(job: Job, running: "asyncio.Task[int]") -> None:
    """Send the CLI a TERM and wait up to GRACE_S for its end; after that it ends with its sandbox."""
    try:
        async with asyncio.timeout(GRACE_S):
            await job.aside(("sh", "-c", _END, "sh", _PID_FILE))
            await asyncio.wait([running])
    except (TimeoutError, ContractError):
        pass  # its sandbox is terminated next, and the CLI with it


def _piece(item: Item) -> Piece:
    match item:
        case Text():
            return Piece("claude", item.text, message_id=item.message_id or None, replaces=item.replaces)
        case Message():
            return Piece("claude", message=item.value, replaces=item.replaces, cut=item.cut or None)
        case Plain():
            lost = f"… [{item.lost_bytes} bytes more]" if item.lost_bytes else ""
            return Piece("stdout", f"{item.text}{lost}\n")


def _performed(verdict: Verdict, *, resumed: str | None) -> Performed:
    error = verdict.error
    if error is not None and error.code is ErrorCode.CONTEXT_FULL and resumed is not None:
        message = f"{error.message}: session {resumed} is full, and without `resume` a new one begins in this project"
        error = ContractError(error.code, message, exit_code=error.exit_code)
    result: dict[str, JsonValue] = {"text": verdict.result, "session_id": verdict.session_id}
    if verdict.structured_output is not None:
        result["structured_output"] = verdict.structured_output
    return Performed(result, error)


def _usage(verdict: Verdict) -> Usage:
    return Usage(**vars(verdict.usage), turns=verdict.turns, session_id=verdict.session_id)

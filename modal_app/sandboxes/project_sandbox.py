"""One project's live sandbox: runs commands in it, commits what they wrote, and terminates it.

The sandbox's entrypoint is a watchdog that reads stdin: when its run sends nothing for `lease_s` seconds, for whatever
reason, it exits and the sandbox ends with it. Jobs never run as uid 0.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import modal
import modal.exception
import structlog
from modal.stream_type import StreamType
from modal_proto import api_pb2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import Commit, SandboxFacts
from modal_app.contract.proof import ProcessFacts
from modal_app.endpoint_settings import Timeouts
from modal_app.sandboxes import git_defaults
from modal_app.sandboxes.guest_text import one_line
from modal_app.sandboxes.outages import Outages
from modal_app.sandboxes.output_chunks import Pace, pieces
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS, retrying
from modal_app.sandboxes.read_back import Found, ReadBack

_log = structlog.get_logger(__name__)

WORKSPACE = "/workspace"
GLOBAL = "/global"
JOB_UID = 1000
_PROBE_S = 20
_AGAIN_S = 0.3
_ATTEMPTS_TO_END = 4
_KEEPS = 2  # bytes to the watchdog per lease; each is a call, and a failed one is repeated three times as often
_ENDING_S = 5.0  # for the platform to report the end of a sandbox whose commands have ended already
_OUT_OF_MEMORY = (
    api_pb2.GenericResult.GENERIC_STATUS_KERNEL_OOM_KILL,
    api_pb2.GenericResult.GENERIC_STATUS_MEMORY_THRASHING_EVICTION,
)
_SIGNALLED = 128  # exit codes from here on mean that a signal ended the process
# Modal starts sandboxes as root and has no setting for it: privileges are dropped for each command.
AS_JOB = (
    "setpriv",
    f"--reuid={JOB_UID}",
    f"--regid={JOB_UID}",
    "--clear-groups",
    "--no-new-privs",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--",
)
_ENV = {
    "HOME": "/tmp",  # noqa: S108  # inside
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",  # of every Python in the sandbox, whoever starts it: what it prints is seen at once
    **git_defaults.ENV,
}

# One command, because each costs a round of calls. As root it first gives the job's user the files that others (uploads
# through the volume API) have put into the project, and then becomes that user: "$@". As that user it writes git's
# default settings, takes back changes of files that were cut off, and removes the locks of killed gits; then it prints
# the time after which changes are the run's own. An interpreter takes longer to start than all the rest: it is started
# only where something has the name of what was left.
_LOCKED = f'find {WORKSPACE} ! -type d \\( -name "*.lock" -o -name gc.pid \\) -print -quit 2>/dev/null'
_CUT_OFF = f'find {WORKSPACE} -maxdepth 1 -type d -name ".workbench-*" -print -quit 2>/dev/null'
PROBE = f"""
unlock=$1 config=$2 path=$3 write_set=$4; shift 4
tell='printf %s "$2" > "$3"; echo "$uid"
[ -z "$({_CUT_OFF})" ] || python3 -I -c "$4" {WORKSPACE} recover >/dev/null 2>&1
[ -z "$({_LOCKED})" ] || python3 -I -c "$1" {WORKSPACE}; exec date +%s.%N'
uid=$(id -u)
if [ "$uid" != 0 ]; then set -- "$unlock" "$config" "$path" "$write_set"; eval "$tell"; fi
echo root
find {WORKSPACE} ! -uid {JOB_UID} -exec chown -h {JOB_UID}:{JOB_UID} {{}} +
exec "$@" sh -c 'uid=$(id -u); '"$tell" sh "$unlock" "$config" "$path" "$write_set"
"""
WRITE_SET = (Path(__file__).parent / "guest" / "write_set.py").read_text(encoding="utf-8")
UNLOCK = (Path(__file__).parent / "guest" / "stale_locks.py").read_text(encoding="utf-8")
PROBED = re.compile(rb"(root\n)?(\d{1,10})\n(\{.*\}\n)?(\d{1,12}\.\d{1,9})\n")
_STDIN_CHUNK_BYTES = 1024 * 1024
_PRINTED_BYTES = 1024 * 1024
OnOutput = Callable[[str, bytes], Awaitable[None]]


async def _ignore(channel: str, data: bytes) -> None:
    """Drop output that nobody asked for."""


def _unsaid(sentence: str) -> None:
    """Tell nobody."""


class StaleLocks(BaseModel):
    """The locks of killed gits that were removed before the job: how many, and the first of their paths."""

    model_config = ConfigDict(strict=True, frozen=True)

    removed: int = Field(0, ge=0)
    first: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A sentence for a status event; empty when there were none."""
        if not self.removed:
            return ""
        more = self.removed - len(self.first)
        names = ", ".join(map(one_line, self.first)) + (f" and {more} more" if more > 0 else "")
        return f"locks that a killed git had left were removed: {names}"


class Job(Protocol):
    """The part of a sandbox that actions use."""

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        on_output: OnOutput = _ignore,
        timeout_s: float | None = None,
        answers: Collection[int] = (),
    ) -> int:
        """Run a command in the workspace and return its exit code.

        An exit code in `answers` is the answer to a question, and does not count as how the job's process ended.
        """
        ...

    async def aside(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        """Run a short command beside the job's own; its output and its exit code are ignored."""
        ...


class ProjectSandbox:
    """A live sandbox. Commands run as an unprivileged user, in /workspace.

    `process` is how the last command of an action ended, `stale_locks` what `prove_alive` has removed, `committed` what
    `commit` has come to, `terminated` whether the end was confirmed. `pace` is that of the container's output, `warm`
    says that the sandbox was prewarmed.
    """

    def __init__(
        self,
        sandbox: modal.Sandbox,
        timeouts: Timeouts,
        read_back: ReadBack,
        *,
        pace: Pace,
        memory_mb: int,
        warm: bool = False,
    ) -> None:
        self.process: ProcessFacts | None = None
        self.stale_locks = StaleLocks()
        self.committed: Commit | None = None
        self._tell: Callable[[str], None] = _unsaid
        self._sandbox = sandbox
        self._timeouts = timeouts
        self._read_back = read_back
        self._pace = pace
        self._memory_mb = memory_mb
        self._warm = warm
        self._prefix: tuple[str, ...] = ()
        self._uid = 0
        self._ready_at = "0"
        self._keeper: asyncio.Task[None] | None = None
        self.terminated = False

    @property
    def id(self) -> str:
        """The platform's id of the sandbox."""
        return str(self._sandbox.object_id)

    @property
    def facts(self) -> SandboxFacts:
        """What the run's terminal event says about the sandbox."""
        return SandboxFacts(id=self.id, uid=self._uid, terminated=self.terminated, warm=self._warm)

    def keep(self, *, at_once: bool) -> None:
        """Begin to tell the watchdog, in a background task, that the run lives.

        That of a new sandbox waits for one lease anyway; that of a prewarmed one must be told `at_once`.
        """
        self._keeper = asyncio.create_task(self._keep(at_once=at_once))

    @contextmanager
    def telling(self, tell: Callable[[str], None]) -> Iterator[None]:
        """While the block lasts, `tell` is called with a sentence when an outage of the platform begins or ends."""
        self._tell = tell
        try:
            yield
        finally:
            self._tell = _unsaid

    async def refresh(self) -> None:
        """Reload the volumes: commits since the sandbox's creation become visible in it. Platform errors are raised."""
        await self._sandbox.reload_volumes.aio()

    async def prove_alive(self) -> None:
        """Run a first command, with a deadline, that proves the sandbox alive and tells which user jobs run as.

        It also removes the locks that killed gits have left: the caller holds the project's lease, so no git runs.
        Raises ContractError `sandbox_unavailable`, `sandbox_lost`.
        """
        argv = ["sh", "-c", PROBE, "sh", UNLOCK, git_defaults.CONFIG, git_defaults.PATH, WRITE_SET, *AS_JOB]
        code, printed = await self._command(argv, timeout_s=self._timeouts.start_s)
        said = PROBED.fullmatch(printed)
        if code != 0 or said is None:
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, f"its first command failed (exit code {code})")
        as_root, uid, locks, now = said.groups()
        if int(uid) == 0:
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, "it cannot run jobs as an unprivileged user")
        self._prefix = AS_JOB if as_root else ()
        self._uid, self._ready_at = int(uid), now.decode()
        self.stale_locks = _stale_locks(locks)

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        on_output: OnOutput = _ignore,
        timeout_s: float | None = None,
        answers: Collection[int] = (),
    ) -> int:
        """Run a command and return its exit code; `on_output(channel, bytes)` is awaited for output as it comes.

        `timeout_s` is by the endpoint's monotonic clock; without it, `process_s`. After an exit code in `answers`,
        `process` stays as it was before.
        Raises ContractError `process_timeout`, `stream_lost`, `sandbox_lost`, `out_of_memory`, `cancelled`.
        """
        limit = timeout_s or self._timeouts.process_s
        started = time.monotonic()
        before = self.process
        try:
            async with asyncio.timeout(limit + 10):
                code = await self._exec(
                    [*self._prefix, *argv], stdin=stdin, env=env, on_output=on_output, timeout_s=int(limit) + 1
                )
        except TimeoutError:
            code = -1
        finally:
            self.process = ProcessFacts(limit_s=limit, took_ms=_ms_since(started))  # its exit code is not known yet
        late = time.monotonic() - started >= limit
        if code == -1 and not late:
            raise ContractError(ErrorCode.SANDBOX_LOST, "the platform ended the process before its time")
        timed_out = code == -1 or (code in (124, 137) and late)
        self.process = self.process.model_copy(
            update={"exit_code": None if timed_out else code, "timed_out": timed_out}
        )
        if timed_out:
            raise ContractError(ErrorCode.PROCESS_TIMEOUT, f"the process did not end within {limit:g} seconds")
        if code in answers:
            self.process = before
        return code

    async def aside(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        """Run a short command beside the job's own, as the same user, and ignore its output and exit code.

        Raises ContractError `sandbox_lost`, `stream_lost`, `out_of_memory`, `cancelled`.
        """
        await self._exec([*self._prefix, *argv], env=env, on_output=_ignore, timeout_s=_PROBE_S, channels=[])

    async def commit(self) -> None:
        """Commit what was written to the workspace; raises ContractError `commit_failed` unless that was confirmed.

        `sync` on the mount is how a sandbox commits a v2 volume; a function's `volume.commit()` would not do it. Some
        of the files are then read back from outside the sandbox, so that a commit that was confirmed but lost counts as
        failed. Afterwards `committed` tells what became of the files, also when it failed.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeouts.commit_s):
                found = await self._read_back.commit(self._command, since=self._ready_at)
        except TimeoutError:
            limit = f"{self._timeouts.commit_s} seconds"
            message = f"the files could not be committed: the commit did not end within {limit}"
            raise ContractError(ErrorCode.COMMIT_FAILED, message) from None
        except ContractError as error:
            if error.code is not ErrorCode.STREAM_LOST:
                raise
            message = "it is not known whether the files are committed: the platform has lost the commit's output"
            raise ContractError(ErrorCode.COMMIT_FAILED, message) from None
        self.committed = Commit(
            committed=not found.failure,
            elapsed_ms=_ms_since(started),
            changed=found.changed,
            compared=found.compared,
        )
        if found.failure:
            raise _not_committed(found, exit_code=self.process.exit_code if self.process else None)

    async def _command(self, argv: Sequence[str], timeout_s: int | None = None) -> tuple[int, bytes]:
        """Run a command of the endpoint's own; returns its exit code and its stdout, cut at about 1 MiB."""
        printed = bytearray()

        async def collect(channel: str, data: bytes) -> None:
            if len(printed) < _PRINTED_BYTES:
                printed.extend(data)

        timeout_s = timeout_s or self._timeouts.commit_s
        code = await self._exec(argv, on_output=collect, timeout_s=timeout_s, channels=["stdout"])
        return code, bytes(printed)

    async def terminate(self) -> None:
        """Terminate the sandbox; `terminated` then says whether its end was confirmed. Idempotent."""
        if self.terminated:
            return
        if self._keeper is not None:
            self._keeper.cancel()
        self.terminated = await see_it_end(self._sandbox, within_s=self._timeouts.terminate_s)

    async def _exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        on_output: OnOutput,
        timeout_s: int,
        channels: Sequence[str] = ("stdout", "stderr"),
    ) -> int:
        """Run a command and return its exit code.

        `stdin` None means that its input is left alone; `channels` are those whose output is read. Raises ContractError
        when the platform loses the command or the sandbox.
        """
        try:
            process = await self._sandbox.exec.aio(
                *argv,
                workdir=WORKSPACE,
                env={**_ENV, **(env or {})},
                timeout=timeout_s,
                text=False,
                stdout=StreamType.PIPE if "stdout" in channels else StreamType.DEVNULL,
                stderr=StreamType.PIPE if "stderr" in channels else StreamType.DEVNULL,
            )

            async def feed(stdin: bytes) -> None:
                for start in range(0, len(stdin) or 1, _STDIN_CHUNK_BYTES):
                    end = start + _STDIN_CHUNK_BYTES
                    process.stdin.write(stdin[start:end])
                    if end >= len(stdin):  # always: a program whose stdin stays open may wait for more for ever
                        process.stdin.write_eof()
                    await process.stdin.drain.aio()

            outages = Outages(within_s=self._timeouts.outage_s, ended=self._has_ended, tell=self._tell)

            async def read(channel: str, stream: AsyncIterator[bytes]) -> None:
                async for chunk in pieces(outages.unbroken(stream), self._pace):
                    await on_output(channel, chunk)

            async def together() -> int:
                async with asyncio.TaskGroup() as group:
                    feeder = None if stdin is None else group.create_task(_ignoring_closed(feed(stdin)))
                    for channel in channels:
                        group.create_task(read(channel, getattr(process, channel)))
                    code: int = await process.wait.aio()
                    if feeder is not None:
                        feeder.cancel()
                return code

            # In a task of its own: before Python 3.13, a group in which something fails at its end leaves its task
            # marked as cancelled, and in 3.11.2 a deadline that passes there later ends the whole task.
            code = await asyncio.create_task(together())
        except ExceptionGroup as errors:
            ours, others = errors.split(ContractError)
            if ours is not None:
                raise _first(ours) from None
            raise await self._lost(_first(others or errors)) from None
        except PLATFORM_ERRORS as error:
            raise await self._lost(error) from None
        if code >= _SIGNALLED and not await self._alive():
            raise await self._lost(None, code)  # the command did not fail by itself: its sandbox was ended
        return code

    async def _has_ended(self) -> bool:
        """Whether the platform says that the sandbox has ended; False also when it says nothing."""
        try:
            async with asyncio.timeout(_ENDING_S):
                return await self._sandbox.poll.aio() is not None
        except PLATFORM_ERRORS:
            return False

    async def _alive(self) -> bool:
        """Whether the sandbox still runs commands. (Its own exit code may come later than its commands' exit codes.)"""
        try:
            async with asyncio.timeout(_PROBE_S):
                probe = await self._sandbox.exec.aio("true", timeout=_PROBE_S)
                return bool(await probe.wait.aio() == 0)
        except PLATFORM_ERRORS:
            return False

    async def _lost(self, error: Exception | None, code: int | None = None) -> Exception:
        """The error to raise for a command that broke off.

        `error` is what the SDK raised, `code` the exit code if one was seen. An error that is no platform error is
        returned as it is. When output is lost, or the sandbox is not known to have ended, it is `stream_lost`; of one
        that has ended, `cancelled` if it is tagged so, `out_of_memory`, or `sandbox_lost`.
        """
        if error is not None and not isinstance(error, PLATFORM_ERRORS):
            return error
        if isinstance(error, modal.exception.DataLossError):
            return ContractError(ErrorCode.STREAM_LOST, "the platform has lost some of what was printed")
        cancelled = False
        try:
            async with asyncio.timeout(_PROBE_S):
                cancelled = "cancelled" in await self._sandbox.get_tags.aio()
        except PLATFORM_ERRORS:
            pass  # the tag cannot be read: the sandbox is taken as lost
        if cancelled:
            return ContractError(ErrorCode.CANCELLED, "the run was cancelled")
        ended_as = await self._ended_as()
        if ended_as in _OUT_OF_MEMORY:
            _log.warning("sandbox.out_of_memory", sandbox_id=self.id)
            limit = f"{self._memory_mb} MiB that its sandbox may use"
            message = f"the job used more memory than the {limit}, and the platform ended the sandbox"
            return ContractError(ErrorCode.OUT_OF_MEMORY, message, exit_code=code)
        if ended_as is None and error is not None:
            _log.warning("sandbox.out_of_reach", sandbox_id=self.id, reason=type(error).__name__)
            message = f"the platform broke off what runs the job ({type(error).__name__}); its sandbox is ended now"
            return ContractError(ErrorCode.STREAM_LOST, message)
        _log.warning("sandbox.lost", sandbox_id=self.id, reason=type(error).__name__)
        return ContractError(ErrorCode.SANDBOX_LOST, "the sandbox ended before its job")

    async def _ended_as(self) -> "api_pb2.GenericResult.GenericStatus.ValueType | None":
        """As what the sandbox has ended; None when the platform does not say within `_ENDING_S` that it has.

        Read from the SDK's private result: its public return code is 137 for a termination and for a lack of memory.
        """
        try:
            async with asyncio.timeout(_ENDING_S):
                await self._sandbox.wait.aio(raise_on_termination=False)
        except PLATFORM_ERRORS:
            return None
        status: api_pb2.GenericResult.GenericStatus.ValueType = self._sandbox._get_metadata().result.status
        return status

    async def _keep(self, *, at_once: bool) -> None:
        """Send the watchdog a byte twice per lease, and after a failure again soon, until cancelled."""
        await asyncio.sleep(0 if at_once else self._timeouts.lease_s / _KEEPS)
        while True:
            pause_s = self._timeouts.lease_s / _KEEPS
            self._sandbox.stdin.write(b".")
            try:
                await self._sandbox.stdin.drain.aio()
            except (*PLATFORM_ERRORS, ValueError):
                _log.warning("sandbox.lease_not_renewed", sandbox_id=self.id)
                pause_s /= 3
            await asyncio.sleep(pause_s)


def _not_committed(found: Found, *, exit_code: int | None) -> ContractError:
    """The error for a failed commit: why it failed, and how much is committed all the same.

    It is not recoverable when the job's own files are the cause: the same job would write them again.
    """
    if found.blamed.count:
        message = f"{found.blamed.count} of the job's own files cannot be committed: {found.failure}"
    else:
        message = f"the files could not be committed: {found.failure}"
    rest = f"; of the other files {found.compared} of {found.looked_at} that were looked at are committed"
    return ContractError(
        ErrorCode.COMMIT_FAILED,
        message + (rest if found.looked_at else ""),
        exit_code=exit_code,
        recoverable=False if found.blamed.count else None,
    )


def _stale_locks(told: bytes | None) -> StaleLocks:
    try:
        return StaleLocks.model_validate_json(told or b"{}")
    except ValidationError:
        return StaleLocks()


async def see_it_end(sandbox: modal.Sandbox, *, within_s: float) -> bool:
    """Terminate a sandbox, again and again if need be; returns whether the platform confirmed its end in the time."""
    try:
        async with asyncio.timeout(within_s):
            async for attempt in retrying(pause_s=_AGAIN_S):
                # It may be gone already, or have ended by its own timeout. An answer that is lost is not waited for.
                with attempt, suppress(modal.exception.NotFoundError, modal.exception.SandboxTimeoutError):
                    async with asyncio.timeout(within_s / _ATTEMPTS_TO_END):
                        await sandbox.terminate.aio(wait=True)
        return True
    except TimeoutError:
        _log.error("sandbox.end_not_confirmed", sandbox_id=sandbox.object_id)
        return False


async def _ignoring_closed(feeding: Awaitable[None]) -> None:
    """Await the feeding of a program's stdin; a program may close it early, which is not an error."""
    try:
        await feeding
    except (*PLATFORM_ERRORS, ValueError) as error:
        _log.debug("sandbox.stdin_closed", reason=type(error).__name__)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _ms_since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)

"""Owns runs.

Each run is one task that holds its sandbox, ends it on every path, and only then tells how the run ended.

Responses are readers of a run, never its owner: a client that leaves, a response that is collected late or never,
change nothing about who cleans up.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator

import structlog
from pydantic import JsonValue

from modal_app import actions
from modal_app.contract.errors import ERRORS, ContractError, ErrorCode
from modal_app.contract.events import Commit, Event, Phase, SandboxFacts, TerminalEvent
from modal_app.contract.requests import Request
from modal_app.runs.journal import Journal
from modal_app.sandbox import Platform, ProjectSandbox, project_sandbox
from modal_app.settings import Timeouts

_log = structlog.get_logger(__name__)


class Run:
    """One run: its journal for one reader, and a way to cancel it."""

    def __init__(self, run_id: str, request: Request, timeouts: Timeouts) -> None:
        self.run_id = run_id
        self.request = request
        self.journal = Journal(run_id)
        self._timeouts = timeouts
        self._work: asyncio.Task[None] | None = None
        self._cancelled = False
        self._ended = asyncio.Event()
        self._grace: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """End the run soon, with `error: cancelled`. Idempotent; too late is harmless."""
        self._cancelled = True
        if self._work is not None:
            self._work.cancel()

    def reader_left(self) -> None:
        """Cancel the run after the grace period: nobody can see its end any more."""
        if self._grace is None and not self._ended.is_set():
            loop = asyncio.get_running_loop()
            self._grace = loop.call_later(self._timeouts.disconnect_grace_s, self.cancel)

    async def ended(self) -> None:
        """Return when the run has ended and its sandbox is gone."""
        await self._ended.wait()

    def events(self) -> AsyncIterator[Event]:
        """The run's events, up to and with the terminal one."""
        return self.journal.read()

    async def live(self, platform: Platform, *, cold_start: bool) -> None:
        """Go from acceptance to the terminal event. Never raises."""
        journal = self.journal
        outcome = _Outcome()
        try:
            journal.status(Phase.ACCEPTED, "the run is accepted", cold_start=cold_start)
            self._work = asyncio.create_task(self._perform(platform, outcome))
            if self._cancelled:
                self._work.cancel()
            done, _ = await asyncio.wait([self._work], timeout=self._timeouts.sandbox_s)
            if not done:
                outcome.error = ContractError(ErrorCode.RUN_TIMEOUT, "the run did not end in its time")
                self._work.cancel()
                await asyncio.wait([self._work])
            outcome.settle(self._work, cancelled=self._cancelled)
        except Exception:  # noqa: BLE001  # the boundary: a broken run still has a terminal event
            _log.exception("run.broken")
            outcome.error = _internal()
        finally:
            if self._grace is not None:
                self._grace.cancel()
            self._tell(outcome)
            self._ended.set()

    async def _perform(self, platform: Platform, outcome: "_Outcome") -> None:
        if not actions.needs_sandbox(self.request):
            self.journal.status(Phase.RUNNING, "reading what is committed")
            outcome.result = await actions.read_committed(self.request, platform)
            return
        self.journal.status(Phase.SANDBOX_STARTING, "the sandbox is starting")
        started_ms = self.journal.elapsed_ms
        held: ProjectSandbox | None = None
        try:
            async with project_sandbox(
                platform,
                self._timeouts,
                run_id=self.run_id,
                user_id=self.request.user_id,
                project_id=self.request.project_id,
            ) as held:
                _log.info("sandbox.start", sandbox_id=held.id, elapsed_ms=self.journal.elapsed_ms - started_ms)
                self.journal.status(
                    Phase.SANDBOX_READY,
                    "the sandbox is ready",
                    timings={"sandbox_start_ms": self.journal.elapsed_ms - started_ms},
                )
                self.journal.status(Phase.RUNNING, "the job is running")
                output = actions.Output(self.journal.stream)
                try:
                    outcome.result = await actions.perform(self.request, held, output)
                    self.journal.status(Phase.COMMITTING, "the files are being committed")
                    outcome.commit = await held.commit()
                finally:
                    self.journal.status(Phase.TERMINATING, "the sandbox is being terminated")
        finally:
            if held is not None:
                outcome.sandbox = held.facts
                _log.info("sandbox.end", sandbox_id=held.id, terminated=held.terminated)

    def _tell(self, outcome: "_Outcome") -> None:
        if outcome.error is None and outcome.sandbox is not None and not outcome.sandbox.terminated:
            _log.error("run.sandbox_not_confirmed", sandbox_id=outcome.sandbox.id)
        if outcome.error is None:
            self.journal.done(result=outcome.result, commit=outcome.commit, sandbox=outcome.sandbox)
        else:
            self.journal.error(outcome.error, sandbox=outcome.sandbox)
        _log.info(
            "run.end",
            elapsed_ms=self.journal.elapsed_ms,
            outcome=str(outcome.error.code) if outcome.error else "done",
            exit_code=outcome.error.exit_code if outcome.error else 0,
        )


class _Outcome:
    """What is known of a run's end while it goes on."""

    def __init__(self) -> None:
        self.result: JsonValue = None
        self.commit: Commit | None = None
        self.sandbox: SandboxFacts | None = None
        self.error: ContractError | None = None

    def settle(self, work: "asyncio.Task[None]", *, cancelled: bool) -> None:
        """Take what the work ended with. A run that was cancelled after it had committed is still done."""
        if self.error is not None:
            return
        if work.cancelled():
            code = ErrorCode.CANCELLED if cancelled else ErrorCode.CONTAINER_LOST
            self.error = ContractError(code, "the run was cancelled" if cancelled else "the endpoint is shutting down")
            return
        failure = work.exception()
        if isinstance(failure, ContractError):
            self.error = failure
        elif failure is not None:
            _log.error("run.internal_error", exc_info=failure)
            self.error = _internal()


class Supervisor:
    """Starts runs and keeps them until they have ended."""

    def __init__(self, platform: Platform, timeouts: Timeouts, *, max_runs: int) -> None:
        self._platform = platform
        self._timeouts = timeouts
        self._max_runs = max_runs
        self._runs: dict[str, Run] = {}
        self._projects: dict[tuple[str, str], str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cold = True

    def start(self, request: Request) -> Run:
        """Accept a run; raises ContractError `project_busy`, `over_capacity` or `invalid_request`."""
        if request.timeout_s is not None and request.timeout_s > self._timeouts.process_s:
            limit = self._timeouts.process_s
            raise ContractError(ErrorCode.INVALID_REQUEST, f"timeout_s: may be at most {limit} on this endpoint")
        if len(self._runs) >= self._max_runs:
            raise ContractError(ErrorCode.OVER_CAPACITY, "too many runs at once: try again soon")
        project = (request.user_id, request.project_id)
        exclusive = actions.needs_sandbox(request)
        if exclusive and project in self._projects:
            raise ContractError(ErrorCode.PROJECT_BUSY, f"run {self._projects[project]} holds this project")
        run = Run(str(uuid.uuid4()), request, self._timeouts)
        self._runs[run.run_id] = run
        if exclusive:
            self._projects[project] = run.run_id
        task = asyncio.create_task(self._live(run, project if exclusive else None))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    def get(self, run_id: str) -> Run | None:
        """A run of this container that has not ended."""
        return self._runs.get(run_id)

    async def aclose(self) -> None:
        """End every run and wait until their sandboxes are gone. Idempotent."""
        for run in list(self._runs.values()):
            run.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=self._timeouts.terminate_s)

    async def _live(self, run: Run, project: tuple[str, str] | None) -> None:
        cold, self._cold = self._cold, False
        structlog.contextvars.bind_contextvars(run_id=run.run_id)
        _log.info(
            "run.start",
            action=run.request.action,
            user_id=run.request.user_id,
            project_id=run.request.project_id,
            cold_start=cold,
        )
        try:
            await run.live(self._platform, cold_start=cold)
        finally:
            del self._runs[run.run_id]
            if project is not None:
                del self._projects[project]


def terminal_status(event: TerminalEvent) -> int:
    """The HTTP status of a run whose end is the whole answer."""
    return 200 if event.type == "done" else ERRORS[event.code].status


def _internal() -> ContractError:
    return ContractError(ErrorCode.INTERNAL, "an internal error; the endpoint's log has the details")

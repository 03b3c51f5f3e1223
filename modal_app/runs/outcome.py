"""What is known so far of how a run ends: collected while it goes on, told in its terminal event."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from pydantic import JsonValue

from modal_app.actions.performed import Performed
from modal_app.contract.errors import ContractError, ErrorCode, internal_error
from modal_app.contract.events import Commit, SandboxFacts, Timings, Usage
from modal_app.contract.proof import ProcessFacts
from modal_app.runs.journal import Journal

_log = structlog.get_logger(__name__)


@dataclass
class Outcome:
    """The result or the error of a run, and its facts. `timings` are milliseconds by name, `sandbox_s` is seconds."""

    result: JsonValue = None
    usage: Usage | None = None
    commit: Commit | None = None
    sandbox: SandboxFacts | None = None
    process: ProcessFacts | None = None
    sandbox_s: float = 0
    error: ContractError | None = None
    timings: dict[str, int] = field(default_factory=dict)
    last_words: str = ""

    def take(self, performed: Performed) -> None:
        """Keep the result of the action; raises the ContractError that the action failed with, if it did."""
        self.result = performed.result
        if performed.error is not None:
            raise performed.error

    def settle(self, work: "asyncio.Task[None]", *, cancelled: bool) -> None:
        """Take over how the run's task has ended, unless an error is known already.

        A task that was cancelled ends with `cancelled` if that was asked for, else with `container_lost`. When the
        cancellation came too late to stop the task, it changes nothing: the run is done.
        """
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
            self.error = internal_error()

    def spent(self, usage: Usage) -> None:
        """Keep what the run has used of the model, however it ends."""
        self.usage = usage

    @contextmanager
    def timed(self, name: str, *, more: bool = False) -> Iterator[None]:
        """Store the duration of the block in `timings[name]`, in milliseconds, also when it raises.

        With `more` it is added to what is stored there.
        """
        started = time.monotonic()
        try:
            yield
        finally:
            before_ms = self.timings.get(name, 0) if more else 0
            self.timings[name] = before_ms + int((time.monotonic() - started) * 1000)

    @property
    def exit_code(self) -> int | None:
        """The exit code for the terminal event and the log; None when the job's process was not seen to end."""
        return 0 if self.error is None else self.error.exit_code

    def tell(self, journal: Journal) -> None:
        """Write the run's terminal event to the journal, and a line to the container's own log."""
        timings = Timings(**self.timings)
        if self.error is None:
            journal.done(
                result=self.result, usage=self.usage, commit=self.commit, sandbox=self.sandbox, timings=timings
            )
        else:
            journal.error(
                self.error,
                exit_code=self.exit_code,
                usage=self.usage,
                commit=self.commit,
                sandbox=self.sandbox,
                timings=timings,
            )
        _log.info(
            "run.end",
            elapsed_ms=journal.elapsed_ms,
            outcome=str(self.error.code) if self.error else "done",
            exit_code=self.exit_code,
            timings=self.timings,
        )

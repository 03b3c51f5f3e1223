"""How a run ends, as far as it is known while it goes on."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from pydantic import JsonValue

from modal_app.actions.performed import Performed
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import Commit, SandboxFacts, Timings, Usage
from modal_app.contract.proof import ProcessFacts
from modal_app.runs.journal import Journal

_log = structlog.get_logger(__name__)


@dataclass
class Outcome:
    """What the run has come to, and how long its parts took in milliseconds."""

    result: JsonValue = None
    usage: Usage | None = None
    commit: Commit | None = None
    sandbox: SandboxFacts | None = None
    process: ProcessFacts | None = None
    sandbox_s: float = 0
    error: ContractError | None = None
    timings: dict[str, int] = field(default_factory=dict)

    def take(self, performed: Performed) -> None:
        """Take what the action has come to; raises the ContractError that it failed with."""
        self.result = performed.result
        if performed.error is not None:
            raise performed.error

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
            self.error = internal_error()

    def spent(self, usage: Usage) -> None:
        """Take what of the model was used, also by a run that is cancelled or has no time left."""
        self.usage = usage

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how many milliseconds a block takes, however it ends."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = int((time.monotonic() - started) * 1000)

    @property
    def exit_code(self) -> int | None:
        """The exit code that event and log tell: the one that the job's process ended with by itself."""
        return 0 if self.error is None else self.error.exit_code

    def tell(self, journal: Journal) -> None:
        """Say in the journal how the run has ended, and in the log."""
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


def internal_error() -> ContractError:
    """What a caller is told of a failure that is ours."""
    return ContractError(ErrorCode.INTERNAL, "an internal error; the endpoint's log has the details")

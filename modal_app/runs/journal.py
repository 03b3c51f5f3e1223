"""What one run says, in order: every event gets its number here and waits here until its reader has taken it.

The window is bounded: a reader that falls behind holds up the job's output, never this process's memory.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TypedDict

from pydantic import JsonValue

from modal_app.contract.errors import ContractError
from modal_app.contract.events import (
    Channel,
    Commit,
    DoneEvent,
    ErrorEvent,
    Event,
    Phase,
    SandboxFacts,
    StatusEvent,
    StreamEvent,
    TerminalEvent,
)
from modal_app.contract.order import Order


class _Stamp(TypedDict):
    run_id: str
    seq: int
    at_ms: int
    elapsed_ms: int


WINDOW_BYTES = 4 * 1024 * 1024


class Journal:
    """The events of one run; one reader."""

    def __init__(
        self, run_id: str, *, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.run_id = run_id
        self.terminal: TerminalEvent | None = None
        self._clock = clock
        self._monotonic = monotonic
        self._started = monotonic()
        self._order = Order()
        self._waiting: deque[Event] = deque()
        self._waiting_bytes = 0
        self._changed = asyncio.Event()

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the run was accepted."""
        return int((self._monotonic() - self._started) * 1000)

    @property
    def phase(self) -> Phase | None:
        """The phase that was last told."""
        return self._order.phase

    def status(
        self, phase: Phase, message: str, *, cold_start: bool | None = None, timings: dict[str, int] | None = None
    ) -> None:
        """Tell a phase."""
        self._append(StatusEvent(**self._stamp(), phase=phase, message=message, cold_start=cold_start, timings=timings))

    async def stream(self, channel: Channel, text: str) -> None:
        """Tell a piece of output; waits while the reader is a window behind."""
        while self._waiting_bytes >= WINDOW_BYTES:
            await self._changed.wait()
        self._append(StreamEvent(**self._stamp(), channel=channel, text=text))

    def done(self, *, result: JsonValue, commit: Commit | None, sandbox: SandboxFacts | None) -> None:
        """Tell success, last."""
        self._append(DoneEvent(**self._stamp(), result=result, commit=commit, sandbox=sandbox))

    def error(self, error: ContractError, *, sandbox: SandboxFacts | None) -> None:
        """Tell failure, last."""
        self._append(
            ErrorEvent(
                **self._stamp(),
                code=error.code,
                message=error.message,
                recoverable=error.recoverable,
                exit_code=error.exit_code,
                sandbox=sandbox,
            )
        )

    async def read(self) -> AsyncIterator[Event]:
        """Take the events as they come, up to and with the terminal one."""
        while True:
            while not self._waiting:
                await self._changed.wait()
            event = self._waiting.popleft()
            self._waiting_bytes -= _size(event)
            self._notify()
            yield event
            if event is self.terminal:
                return

    def _stamp(self) -> _Stamp:
        return {
            "run_id": self.run_id,
            "seq": self._order.last_seq + 1,
            "at_ms": int(self._clock() * 1000),
            "elapsed_ms": self.elapsed_ms,
        }

    def _append(self, event: Event) -> None:
        self._order.check(event)
        self._waiting.append(event)
        self._waiting_bytes += _size(event)
        if isinstance(event, DoneEvent | ErrorEvent):
            self.terminal = event
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _size(event: Event) -> int:
    return len(event.text) + 200 if isinstance(event, StreamEvent) else 0

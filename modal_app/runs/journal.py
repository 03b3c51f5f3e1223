"""The events of one run as its owner writes them: numbered, checked for their order, and put into the run's log.

An event is in the log before any reader sees it. Events that come while a batch is being put wait for the next batch:
a slow log makes larger batches. A status after the first waits a moment for what follows it: each batch costs calls on
its way to every reader, and a short run tells most of its phases within that moment. Output and the end never wait.

What waits is bounded by MAX_WAITING_BYTES: beyond it the job's output is held up, and this process's memory does not
grow.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypedDict

import structlog
from pydantic import JsonValue

from modal_app.actions.output import Piece
from modal_app.contract import sse
from modal_app.contract.errors import ContractError, ErrorCode, internal_error
from modal_app.contract.events import (
    TERMINAL,
    Commit,
    DoneEvent,
    ErrorEvent,
    Event,
    ModelRetry,
    Phase,
    SandboxFacts,
    StatusEvent,
    StreamEvent,
    TerminalEvent,
    Timings,
    Usage,
)
from modal_app.contract.order import Order
from modal_app.runs.batches import Batch
from modal_app.runs.event_spool import Spool
from modal_app.runs.log import LogLostError, LogRefusedError, LogWriter

_log = structlog.get_logger(__name__)

MAX_WAITING_BYTES = 2 * 1024 * 1024
MAX_BATCH_BYTES = 640 * 1024  # fits into one item of the queue
_LINGER_S = 0.05  # for a status to wait


class _Stamp(TypedDict):
    run_id: str
    seq: int
    at_ms: int
    elapsed_ms: int


class Journal:
    """Writes one run's events. `start` begins to put them into the log, `finish` waits until the last one is there.

    `clock` gives Unix time, `monotonic` a clock for `elapsed_ms`; both in seconds.
    """

    def __init__(
        self,
        spool: Spool,
        log: LogWriter,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spool = spool
        self.first_output_ms: int | None = None
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._started = monotonic()
        self._order = Order()
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        self._is_urgent = False  # something waits that must not wait for more
        self._terminal: TerminalEvent | None = None
        self._lost = False
        self._failure: ContractError | None = None
        self._changed = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._on_lost: Callable[[], None] = lambda: None

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the run was accepted."""
        return int((self._monotonic() - self._started) * 1000)

    @property
    def phase(self) -> Phase | None:
        """The phase of the last `status` event; None before the first."""
        return self._order.phase

    @property
    def lost(self) -> bool:
        """Whether no more events come into the log from here; another writer then closes the run."""
        return self._lost

    @property
    def failure(self) -> ContractError | None:
        """Why the log is lost although this container still owns the run: its owner then closes it."""
        return self._failure

    def start(self, on_lost: Callable[[], None]) -> None:
        """Begin to write to the log; `on_lost` is called once if it is lost: nobody hears of the run then."""
        self._on_lost = on_lost
        self._writer = asyncio.create_task(self._write())

    def status(
        self, phase: Phase, message: str, *, cold_start: bool | None = None, timings: Timings | None = None
    ) -> None:
        """Write a `status` event. Raises OrderError when the phase may not come now."""
        self._append(StatusEvent(**self._stamp(), phase=phase, message=message, cold_start=cold_start, timings=timings))

    def retry(self, retry: ModelRetry) -> None:
        """Write that the model is asked again. Raises OrderError outside of the phase `running`."""
        answer = "did not answer" if retry.status is None else f"answered {retry.status}"
        message = f"the model {answer}: repetition {retry.attempt} of {retry.most} in {retry.wait_ms / 1000:.1f} s"
        self._append(StatusEvent(**self._stamp(), phase=Phase.RUNNING, message=message, retry=retry))

    async def stream(self, piece: Piece) -> None:
        """Write a `stream` event; waits while too much is waiting for the log.

        Raises ContractError `container_lost` when the log is lost, and OrderError outside of the phase `running`.
        """
        while self._waiting_bytes >= MAX_WAITING_BYTES and not self._lost:
            await self._changed.wait()
        if self._lost:
            raise ContractError(ErrorCode.CONTAINER_LOST, "the run's events can no longer be stored")
        if self.first_output_ms is None:
            self.first_output_ms = self.elapsed_ms
        self._append(StreamEvent(**self._stamp(), **vars(piece)))

    def done(
        self,
        *,
        result: JsonValue,
        commit: Commit | None,
        sandbox: SandboxFacts | None,
        usage: Usage | None = None,
        timings: Timings | None = None,
    ) -> None:
        """Write `done`, the terminal event of a run that succeeded. Raises OrderError."""
        stamp = self._stamp()
        self._append(DoneEvent(**stamp, result=result, usage=usage, commit=commit, sandbox=sandbox, timings=timings))

    def error(
        self,
        error: ContractError,
        *,
        exit_code: int | None,
        sandbox: SandboxFacts | None,
        usage: Usage | None = None,
        commit: Commit | None = None,
        timings: Timings | None = None,
    ) -> None:
        """Write `error`, the terminal event of a run that failed. Raises OrderError."""
        self._append(
            ErrorEvent(
                **self._stamp(),
                code=error.code,
                message=error.message,
                recoverable=error.recoverable,
                exit_code=exit_code,
                usage=usage,
                commit=commit,
                sandbox=sandbox,
                timings=timings,
            )
        )

    async def finish(self) -> TerminalEvent | None:
        """Wait until every event is in the log and return the terminal one; None when the log was lost."""
        assert self._writer is not None
        await asyncio.wait([self._writer])
        return None if self._lost or self._writer.cancelled() else self._terminal

    async def aclose(self) -> None:
        """Stop writing to the log, whether or not everything is there. Idempotent."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])

    @property
    def last_seq(self) -> int:
        """The number of the last event that was written here; it may not be in the log yet."""
        return self._order.last_seq

    def _stamp(self) -> _Stamp:
        return {
            "run_id": self.spool.run_id,
            "seq": self._order.last_seq + 1,
            "at_ms": int(self._clock() * 1000),
            "elapsed_ms": self.elapsed_ms,
        }

    def _append(self, event: Event) -> None:
        self._order.check(event)
        frame = sse.frame(event)
        self._waiting.append((event.seq, frame))
        self._waiting_bytes += len(frame)
        self._is_urgent |= event.seq == 1 or not isinstance(event, StatusEvent)
        if isinstance(event, TERMINAL):
            self._terminal = event
        self._notify()

    async def _write(self) -> None:
        """Put what waits into the log and then into the spool, until the terminal event is there."""
        await asyncio.sleep(0)  # what the run tells before it first waits for anything is one batch
        try:
            while self._terminal is None or self._waiting:
                if not self._waiting:
                    await self._changed.wait()
                    continue
                await self._linger()
                batch = self._take()
                await self._log.append(batch)
                self.spool.append(batch)
                self._notify()
        except LogLostError as error:
            self._lose(str(error))
        except LogRefusedError:
            _log.exception("log.refused")
            self._failure = ContractError(ErrorCode.TOO_LARGE, "an event of the run is too large to be stored")
            self._lose(self._failure.message)
        except Exception:  # noqa: BLE001  # the boundary: readers must not wait for ever
            _log.exception("log.broken")
            self._failure = internal_error()
            self._lose("the run's events can no longer be stored")

    def _lose(self, reason: str) -> None:
        self._lost = True
        self.spool.fail(reason)
        self._notify()
        self._on_lost()

    async def _linger(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while not self._is_urgent:
                    await self._changed.wait()

    def _take(self) -> Batch:
        count = size = 0
        for _, frame in self._waiting:
            if count and size + len(frame) > MAX_BATCH_BYTES:
                break
            count, size = count + 1, size + len(frame)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= size
        self._is_urgent = bool(self._waiting)
        terminal = self._terminal is not None and not self._waiting
        return Batch(taken[0][0], taken[-1][0], b"".join(frame for _, frame in taken), terminal=terminal)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

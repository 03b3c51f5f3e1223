"""The legal order of a run's events, as data. The endpoint checks what it writes by it, the client what it reads."""

from collections.abc import Mapping
from types import MappingProxyType

from modal_app.contract.events import TERMINAL, DoneEvent, Event, Phase, StatusEvent, StreamEvent


class OrderError(Exception):
    """An event may not come at this point of a run's stream; the message says why."""


# After a phase, which phases may follow. An `error` may end a run in any phase.
NEXT: Mapping[Phase | None, frozenset[Phase]] = MappingProxyType(
    {
        None: frozenset({Phase.ACCEPTED}),
        Phase.ACCEPTED: frozenset({Phase.QUEUED, Phase.SANDBOX_STARTING, Phase.RUNNING}),
        Phase.QUEUED: frozenset({Phase.QUEUED, Phase.SANDBOX_STARTING}),  # for its project, then for its turn to start
        Phase.SANDBOX_STARTING: frozenset({Phase.SANDBOX_READY, Phase.TERMINATING}),
        Phase.SANDBOX_READY: frozenset({Phase.RUNNING, Phase.TERMINATING}),
        Phase.RUNNING: frozenset({Phase.RUNNING, Phase.COMMITTING, Phase.TERMINATING}),  # again: what it waits for
        Phase.COMMITTING: frozenset({Phase.TERMINATING}),
        Phase.TERMINATING: frozenset(),
    }
)
# `done` ends a run after its sandbox was terminated, or in `running` when the action needed none.
DONE_AFTER = frozenset({Phase.RUNNING, Phase.TERMINATING})
OUTPUT_IN = frozenset({Phase.RUNNING})


class Order:
    """Checks the events of one run, one after the other.

    `phase` is the current phase, None before the first; `last_seq` the number of the last event; `ended` whether it was
    the terminal one.
    """

    def __init__(self) -> None:
        self.phase: Phase | None = None
        self.last_seq = 0
        self.ended = False
        self._run_id: str | None = None
        self._elapsed_ms = 0

    def check(self, event: Event) -> None:
        """Take the next event; raises OrderError, and changes nothing, when it may not come now."""
        if self.ended:
            raise OrderError(f"{event.type} after the terminal event")
        if event.seq != self.last_seq + 1:
            raise OrderError(f"seq {event.seq} after {self.last_seq}")
        if self._run_id not in (None, event.run_id):
            raise OrderError(f"an event of run {event.run_id} among those of run {self._run_id}")
        if event.elapsed_ms < self._elapsed_ms:
            raise OrderError(f"elapsed_ms went back from {self._elapsed_ms} to {event.elapsed_ms}")
        if isinstance(event, StatusEvent):
            waits = event.retry is not None
            if waits and (self.phase, event.phase) != (Phase.RUNNING, Phase.RUNNING):
                raise OrderError(f"a repetition of the model's in phase {self.phase}")
            if not waits and event.phase not in NEXT[self.phase]:
                raise OrderError(f"phase {event.phase} after {self.phase}")
            self.phase = event.phase
        elif self.phase is None:
            raise OrderError(f"{event.type} before the first status")
        elif isinstance(event, StreamEvent) and self.phase not in OUTPUT_IN:
            raise OrderError(f"output in phase {self.phase}")
        elif isinstance(event, DoneEvent) and self.phase not in DONE_AFTER:
            raise OrderError(f"done in phase {self.phase}")
        self.ended = isinstance(event, TERMINAL)
        self.last_seq = event.seq
        self._run_id = event.run_id
        self._elapsed_ms = event.elapsed_ms

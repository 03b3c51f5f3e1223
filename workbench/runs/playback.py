"""Plays a run's events again, at their own times or faster, slower, step by step. Pure: the clock is its caller's.

A playback looks like a run that goes on (`state`, `events`, `timeline`, `listen`), so whatever shows runs shows it.
Whoever drives it calls `advance`, which tells the events that are due.
"""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from modal_app.contract.events import Event
from modal_app.contract.proof import Check
from workbench.errors import WorkbenchError
from workbench.runs.client import Received
from workbench.runs.run import Listener
from workbench.runs.timeline import Timeline, timeline
from workbench.runs.view_state import ViewState, reduce

SLOWEST, FASTEST = 0.1, 100.0
_MARK_EVERY = 1000  # events between two states that are kept, so that a jump need not count from the first one


class Recorded(Protocol):
    """Anything that has a run's events: an archived run, a recording, a run."""

    @property
    def events(self) -> Sequence[Event]:
        """The events in their order."""


class NothingToPlayError(WorkbenchError, ValueError):
    """There are no events to play."""


class Playback:
    """A run's events and the place in them. Safe to use from any thread; listeners are called in the caller's."""

    reconnects = 0
    reconnecting = False

    def __init__(
        self, recorded: Recorded | Iterable[Event], *, speed: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        events: Iterable[Event] = getattr(recorded, "events", recorded)  # type: ignore[arg-type]  # the one or the other
        self._events = tuple(events)
        if not self._events:
            raise NothingToPlayError("there are no events to play")
        self._times = _rising(self._events)
        self._recorded = recorded
        self._clock = clock
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._end_listeners: list[Callable[[], None]] = []
        self._jump_listeners: list[Callable[[], None]] = []
        self._marks: list[ViewState] = [ViewState()]
        self._played = 0
        self._state = ViewState()
        self._position_ms = 0.0
        self._speed = 1.0
        self._running_since: float | None = None
        self.set_speed(speed)

    @property
    def length_ms(self) -> int:
        """When the last event came."""
        return self._times[-1]

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self._events)

    @property
    def played(self) -> int:
        """How many events lie behind the place."""
        return self._played

    @property
    def playing(self) -> bool:
        """Whether time runs."""
        return self._running_since is not None

    @property
    def speed(self) -> float:
        """How many times as fast as it was."""
        return self._speed

    @property
    def pace(self) -> float:
        """How fast its time runs now."""
        return self._speed if self.playing else 0.0

    @property
    def position_ms(self) -> int:
        """The place, in the run's own time."""
        with self._lock:
            return int(self._now())

    @property
    def state(self) -> ViewState:
        """What a reader knew at that place."""
        with self._lock:
            shown = self._state if self._state.ended else replace(self._state, elapsed_ms=self.position_ms)
            return shown if self._played else replace(shown, run_id=self._events[0].run_id)

    @property
    def events(self) -> Sequence[Event]:
        """The events that lie behind the place."""
        return self._events[: self._played]

    @property
    def timeline(self) -> Timeline:
        """Where the time went, up to the place."""
        return timeline(self.events)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event when it is due; returns a way to stop."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def on_jump(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the place was changed by hand: what lies behind it is not what it was."""
        self._jump_listeners.append(listener)

    def on_end(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the last event is played for the first time."""
        with self._lock:
            self._end_listeners.append(listener)
        if self._played == len(self._events):
            self._ended()

    def cancel(self) -> None:
        """What is over cannot be cancelled."""

    def checks(self) -> Sequence[Check]:
        """What the recorded run's checks say. Raises NothingToPlayError when it has none."""
        checks = getattr(self._recorded, "checks", None)
        if checks is None:
            raise NothingToPlayError("a list of events alone proves nothing")
        found: Sequence[Check] = checks()
        return found

    def play(self) -> None:
        """Let time run; from the beginning when the end was reached."""
        with self._lock:
            if self._played == len(self._events):
                self.seek(0)
            self._running_since = self._running_since or self._clock()

    def pause(self) -> None:
        """Let time stand still."""
        with self._lock:
            self._position_ms, self._running_since = self._now(), None

    def set_speed(self, speed: float) -> None:
        """Go on so many times as fast; raises ValueError outside SLOWEST to FASTEST."""
        if not SLOWEST <= speed <= FASTEST:
            raise ValueError(f"the speed must be from {SLOWEST:g} to {FASTEST:g}")
        with self._lock:
            if self._running_since is not None:
                self._position_ms, self._running_since = self._now(), self._clock()
            self._speed = speed

    def step(self, by: int = 1) -> None:
        """Stop, and go so many events forth or back."""
        with self._lock:
            self._running_since = None
            self._jump(max(0, min(len(self._events), self._played + by)))
            self._position_ms = float(self._times[self._played - 1]) if self._played else 0.0
        self._jumped()

    def seek(self, position_ms: float) -> None:
        """Go to a time; what was due by then has been played. Whether time runs stays as it is."""
        with self._lock:
            self._position_ms = max(0.0, min(float(position_ms), self.length_ms))
            self._running_since = None if self._running_since is None else self._clock()
            self._jump(bisect_right(self._times, self._position_ms) if position_ms > 0 else 0)
        self._jumped()

    def advance(self) -> int:
        """Play what is due by now, and tell it; returns how many events that were. Stops at the end."""
        with self._lock:
            if self._running_since is None:
                return 0
            due = bisect_right(self._times, self._now())
            fresh = self._events[self._played : due]
            self._forward(due)
            listeners = tuple(self._listeners)
            if due == len(self._events):
                self._position_ms, self._running_since = float(self.length_ms), None
        at = self._clock()
        for event in fresh:
            for listener in listeners:
                listener(Received(event, at))
        self._ended_if_played()
        return len(fresh)

    def _now(self) -> float:
        if self._running_since is None:
            return self._position_ms
        passed_ms = (self._clock() - self._running_since) * 1000 * self._speed
        return min(self._position_ms + passed_ms, float(self.length_ms))

    def _forward(self, to: int) -> None:
        for index in range(self._played, to):
            self._state = reduce(self._state, self._events[index])
            if (index + 1) % _MARK_EVERY == 0 and len(self._marks) == (index + 1) // _MARK_EVERY:
                self._marks.append(self._state)
        self._played = max(to, self._played)

    def _jump(self, to: int) -> None:
        if to < self._played:
            mark = min(to // _MARK_EVERY, len(self._marks) - 1)
            self._state, self._played = self._marks[mark], mark * _MARK_EVERY
        self._forward(to)

    def _jumped(self) -> None:
        for listener in self._jump_listeners:
            listener()
        self._ended_if_played()

    def _ended_if_played(self) -> None:
        if self._played == len(self._events):
            self._ended()

    def _ended(self) -> None:
        with self._lock:
            listeners, self._end_listeners = self._end_listeners, []
        for listener in listeners:
            listener()


def _rising(events: Sequence[Event]) -> list[int]:
    """When each event is due: never before the one before it, whatever a recording says."""
    times: list[int] = []
    for event in events:
        times.append(max(event.elapsed_ms, times[-1] if times else 0))
    return times

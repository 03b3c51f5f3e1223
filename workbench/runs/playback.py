"""Plays the events of a run back, at their own pace, faster, slower, or step by step. Pure: the caller gives the clock.

A playback has the properties of a run that is going on (`state`, `events`, `timeline`, `listen`), so that every view of
a run can show it. Its owner calls `advance` regularly, which calls the listeners with the events that are due.
"""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from modal_app.contract.events import Event
from modal_app.contract.proof import Check
from modal_app.contract.requests import Request
from workbench.errors import WorkbenchError
from workbench.runs.client import Received
from workbench.runs.measured import NOTHING, Measured
from workbench.runs.output_index import OutputIndex
from workbench.runs.run import Listener
from workbench.runs.timeline import Timeline, timeline
from workbench.runs.view_state import ViewState, reduce

SLOWEST, FASTEST = 0.1, 100.0
_MARK_EVERY = 1000  # events between two stored states: a jump starts from a stored one, not from the first event


class Recorded(Protocol):
    """Anything that has the events of a run: an archived run, a recording, a run."""

    @property
    def events(self) -> Sequence[Event]:
        """The events in their order."""


class NothingToPlayError(WorkbenchError, ValueError):
    """There are no events to play."""


class Playback:
    """The events of a run and a current place in them. May be used from any thread.

    Listeners are called in the thread of whoever calls `advance` or moves the place.
    """

    reconnects = 0
    reconnecting = False
    fault = ""  # a recording tells nothing of a cloud's rules, of arrivals or of what was used
    arrivals = None

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
        self._output = OutputIndex()
        self._speed = 1.0
        self._running_since: float | None = None
        self.set_speed(speed)

    @property
    def length_ms(self) -> int:
        """When the last event is due, in milliseconds of the run's own time."""
        return self._times[-1]

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self._events)

    @property
    def played(self) -> int:
        """How many events have been played."""
        return self._played

    @property
    def playing(self) -> bool:
        """Whether the playback runs; False when it is paused or at its end."""
        return self._running_since is not None

    @property
    def speed(self) -> float:
        """The speed that is set; 1 is the run's own."""
        return self._speed

    @property
    def pace(self) -> float:
        """The speed now: `speed` while it plays, 0 while it is paused."""
        return self._speed if self.playing else 0.0

    @property
    def position_ms(self) -> int:
        """The current place, in milliseconds of the run's own time."""
        with self._lock:
            return int(self._now())

    @property
    def state(self) -> ViewState:
        """What a reader of the run knew at the current place."""
        with self._lock:
            shown = self._state if self._state.ended else replace(self._state, elapsed_ms=self.position_ms)
            return shown if self._played else replace(shown, run_id=self._events[0].run_id)

    @property
    def events(self) -> Sequence[Event]:
        """The events that have been played."""
        return self._events[: self._played]

    def measured(self) -> Measured:
        """Nothing: a recording does not tell."""
        return NOTHING

    @property
    def request(self) -> Request | None:
        """What the recorded run was asked; None when that is not known."""
        return getattr(getattr(self._recorded, "run", self._recorded), "asked", None)

    @property
    def output(self) -> OutputIndex:
        """The lines of the events that have been played; another object after a jump back."""
        with self._lock:
            if self._output.events > self._played:
                self._output = OutputIndex()
            for index in range(self._output.events, self._played):
                self._output.add(self._events[index])
            return self._output

    @property
    def timeline(self) -> Timeline:
        """The run's timeline up to the current place."""
        return timeline(self.events)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event when it is due; returns a function that ends that."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def on_jump(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the place was moved other than by playing: the played events are then others."""
        self._jump_listeners.append(listener)

    def on_end(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the last event is played for the first time."""
        with self._lock:
            self._end_listeners.append(listener)
        if self._played == len(self._events):
            self._ended()

    def cancel(self) -> None:
        """Do nothing: a run that is played back has ended already."""

    def checks(self) -> Sequence[Check]:
        """The checks of the recorded run. Raises NothingToPlayError when what is played has none."""
        checks = getattr(self._recorded, "checks", None)
        if checks is None:
            raise NothingToPlayError("a list of events cannot be checked: play an archived run or a recording")
        found: Sequence[Check] = checks()
        return found

    def play(self) -> None:
        """Start or continue playing; at the end, from the beginning."""
        with self._lock:
            if self._played == len(self._events):
                self.seek(0)
            self._running_since = self._running_since or self._clock()

    def pause(self) -> None:
        """Stop playing at the current place."""
        with self._lock:
            self._position_ms, self._running_since = self._now(), None

    def set_speed(self, speed: float) -> None:
        """Set the speed, 1 being the run's own; raises ValueError outside SLOWEST to FASTEST."""
        if not SLOWEST <= speed <= FASTEST:
            raise ValueError(f"the speed is {speed:g}, and must be from {SLOWEST:g} to {FASTEST:g}")
        with self._lock:
            if self._running_since is not None:
                self._position_ms, self._running_since = self._now(), self._clock()
            self._speed = speed

    def step(self, by: int = 1) -> None:
        """Pause, and move the place by `by` events, back if it is negative."""
        with self._lock:
            self._running_since = None
            self._jump(max(0, min(len(self._events), self._played + by)))
            self._position_ms = float(self._times[self._played - 1]) if self._played else 0.0
        self._jumped()

    def seek(self, position_ms: float) -> None:
        """Move the place to a time in milliseconds; it goes on playing if it was playing."""
        with self._lock:
            self._position_ms = max(0.0, min(float(position_ms), self.length_ms))
            self._running_since = None if self._running_since is None else self._clock()
            self._jump(bisect_right(self._times, self._position_ms) if position_ms > 0 else 0)
        self._jumped()

    def advance(self) -> int:
        """Play the events that are due by now; returns how many they were. Pauses at the end."""
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
    """When each event is due, in milliseconds: never before the event before it, whatever a recording says."""
    times: list[int] = []
    for event in events:
        times.append(max(event.elapsed_ms, times[-1] if times else 0))
    return times

"""How late each event of a run arrived here: the endpoint's time of the event against the time of its arrival. Pure.

The two clocks need not agree. So an event's lag is what it took longer than the event of the same run that came
quickest: a delay that all events share is not seen, and what a buffering hop holds back is.
"""

import threading
from dataclasses import dataclass

from modal_app.contract.events import Event

MOST = 240  # points that are kept; more events share them
LATE_MS = 1000  # that is more than a network takes


@dataclass(frozen=True)
class Lag:
    """The greatest lag of the events from `from_ms` until before `to_ms` of the run, and how many they are."""

    from_ms: int
    to_ms: int
    lag_ms: int
    events: int


class Arrivals:
    """Takes a run's events as they arrive, and tells their lags. Its memory is bounded."""

    def __init__(self, *, since_s: float = float("-inf")) -> None:
        """Events that the quickest clock puts before `since_s` of this machine's clock are left out.

        They were there before anybody listened.
        """
        self._since_ms = since_s * 1000
        self._width = 1
        self._bins: dict[int, tuple[int, int]] = {}  # by place: the greatest difference, and how many events
        self._quickest: int | None = None
        self._accepted_ms = 0
        self._lock = threading.Lock()

    def add(self, event: Event, at_s: float) -> None:
        """Take an event that arrived at `at_s` of this machine's clock."""
        with self._lock:
            self._add(event, int(at_s * 1000) - event.at_ms)

    def _add(self, event: Event, late: int) -> None:
        if self._quickest is None or late < self._quickest:
            self._quickest = late
        self._accepted_ms = event.at_ms - event.elapsed_ms
        self._put(max(0, event.elapsed_ms) // self._width, late, 1)
        while len(self._bins) > MOST:
            self._width *= 2
            before, self._bins = self._bins, {}
            for place, (most, events) in before.items():
                self._put(place // 2, most, events)

    def _put(self, place: int, late: int, events: int) -> None:
        most, known = self._bins.get(place, (late, 0))
        self._bins[place] = (max(most, late), known + events)

    @property
    def lags(self) -> list[Lag]:
        """The lags, in the order of the events."""
        with self._lock:
            quickest, width = self._quickest or 0, self._width
            heard_ms = self._since_ms - quickest - self._accepted_ms  # since when somebody listens, in the run's time
            bins = sorted((place, known) for place, known in self._bins.items() if (place + 1) * width > heard_ms)
        return [Lag(place * width, (place + 1) * width, most - quickest, events) for place, (most, events) in bins]

    @property
    def most_ms(self) -> int:
        """The greatest lag of all."""
        return max((one.lag_ms for one in self.lags), default=0)

    @property
    def told(self) -> str:
        """The lags in one sentence; "" where none is known."""
        if not self.lags:
            return ""
        if self.most_ms < LATE_MS:
            return f"no event was more than {self.most_ms} ms behind the quickest"
        late_s = self.most_ms / 1000
        return f"events came up to {late_s:.1f} s late: something between here and the endpoint holds them back"

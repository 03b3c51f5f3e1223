"""The cloud's time, which may be moved forward: limits of minutes and days can then be watched in seconds.

Everything that Modal promises (timeouts, idle times, expiry, schedules) is measured by such a clock: what belongs to an
app by the app's (`clocks`), the rest by the whole cloud's. The cloud's own deadlines, such as how long a killed program
may take to die, are measured in real time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

MAX_ADVANCE_S = 366 * 24 * 3600.0


class Clock:
    """Time that runs as usual and can be advanced. To be used from one event loop.

    One that follows another clock is moved with that, and can be moved further alone.
    """

    def __init__(self, leader: "Clock | None" = None) -> None:
        """Follow `leader`, by default real time, until `leave`."""
        self._leader = leader
        self._followers: set[Clock] = set()
        self._offset = 0.0
        self._passed = 0.0
        self._timers: set[Timer] = set()
        if leader is not None:
            leader._followers.add(self)

    @property
    def offset_s(self) -> float:
        """How many seconds this clock is ahead of real time."""
        return self._offset + (self._leader.offset_s if self._leader is not None else 0.0)

    @property
    def own_offset_s(self) -> float:
        """How many seconds this clock is ahead of the one that it follows."""
        return self._offset

    def time(self) -> float:
        """Unix time in seconds."""
        return time.time() + self.offset_s

    def monotonic(self) -> float:
        """Seconds since an unspecified start, for deadlines; they never go back."""
        return (self._leader.monotonic() if self._leader is not None else time.monotonic()) + self._passed

    def advance(self, seconds: float) -> None:
        """Move the clock forward; timers that are due then fire. Raises ValueError outside of 0…`MAX_ADVANCE_S`."""
        if not 0 <= seconds <= MAX_ADVANCE_S:
            raise ValueError(f"a clock can be advanced by 0 to {MAX_ADVANCE_S:g} seconds, not by {seconds:g}")
        self._offset += seconds
        self._passed += seconds
        self._moved()

    def set_back(self, seconds: float) -> None:
        """Take back so much of how far the clock is ahead. What is over stays so, and every wait lasts as before."""
        self._offset = max(round(self._offset - seconds, 6), 0.0)

    def leave(self) -> None:
        """Be moved no further with the clock that this one follows. Idempotent."""
        if self._leader is not None:
            self._leader._followers.discard(self)

    def _moved(self) -> None:
        for timer in self._timers:
            timer.set(self.monotonic())
        for follower in self._followers:
            follower._moved()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> "Timer":
        """Call back once `seconds` have passed by this clock, unless the timer is cancelled before."""
        timer = Timer(self.monotonic() + seconds, callback, self._timers)
        timer.set(self.monotonic())
        return timer

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` have passed by this clock."""
        await self.first(timeout_s=seconds)

    async def first(self, *waits: Awaitable[object], timeout_s: float) -> None:
        """Return when one of `waits` has ended or `timeout_s` seconds have passed; the other waits are cancelled."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end(_: object = None) -> None:
            if not over.done():
                over.set_result(None)

        jobs = [asyncio.ensure_future(wait) for wait in waits]
        for job in jobs:
            job.add_done_callback(end)
        timer = self.call_later(timeout_s, end)
        try:
            await over
        finally:
            timer.cancel()
            for job in jobs:
                job.cancel()


class Timer:
    """A callback that is due at a moment of a `Clock`; made by `Clock.call_later`."""

    def __init__(self, deadline: float, callback: Callable[[], object], running: "set[Timer]") -> None:
        self._deadline = deadline
        self._callback = callback
        self._running = running
        self._handle: asyncio.TimerHandle | None = None
        running.add(self)

    def set(self, now: float) -> None:
        """Schedule the callback anew; `now` is the clock's monotonic time. The clock calls this whenever it moves."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = asyncio.get_running_loop().call_later(max(self._deadline - now, 0), self._fire)

    def _fire(self) -> None:
        self._running.discard(self)
        self._callback()

    def cancel(self) -> None:
        """Do not call back. Idempotent."""
        self._running.discard(self)
        if self._handle is not None:
            self._handle.cancel()

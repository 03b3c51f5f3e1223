"""The cloud's time, which may be moved forward: limits of minutes and days can then be watched in seconds.

Whatever is a promise of Modal's (timeouts, idle times, expiry, schedules) is measured by this clock. What keeps this
process healthy (how long a killed program may take to die) is measured by the real one.
"""

import asyncio
import time
from collections.abc import Awaitable

MAX_ADVANCE_S = 366 * 24 * 3600.0


class Clock:
    """Time that runs as usual and can be advanced. To be used from one event loop."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._moved = asyncio.Event()

    @property
    def offset_s(self) -> float:
        """How many seconds it is ahead of real time."""
        return self._offset

    def time(self) -> float:
        """Unix time in seconds."""
        return time.time() + self._offset

    def monotonic(self) -> float:
        """Seconds that only grow, for deadlines."""
        return time.monotonic() + self._offset

    def advance(self, seconds: float) -> None:
        """Move forward; whatever waits looks at the clock again. Raises ValueError for a negative or absurd number."""
        if not 0 <= seconds <= MAX_ADVANCE_S:
            raise ValueError(f"a clock is advanced by 0 to {MAX_ADVANCE_S:g} seconds, not by {seconds:g}")
        self._offset += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` have passed by this clock."""
        await self.first(timeout_s=seconds)

    async def first(self, *waits: Awaitable[object], timeout_s: float) -> None:
        """Return when one of the waits is over or `timeout_s` seconds have passed; the other waits are cancelled."""
        deadline = self.monotonic() + timeout_s
        jobs = [asyncio.ensure_future(wait) for wait in waits]
        try:
            while not any(job.done() for job in jobs) and (left := deadline - self.monotonic()) > 0:
                moved = asyncio.ensure_future(self._moved.wait())
                try:
                    await asyncio.wait([*jobs, moved], timeout=left, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    moved.cancel()
        finally:
            for job in jobs:
                job.cancel()

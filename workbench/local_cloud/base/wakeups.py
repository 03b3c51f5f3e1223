"""Wakes those who wait for something to arrive at a place. Owns no data: who is woken looks for itself."""

import asyncio
from collections.abc import Callable

Place = tuple[str, bytes]  # a queue's id and a partition's key


class Arrivals:
    """Waiters by place, woken all at once in the order in which they came. For one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Place, dict[asyncio.Future[None], None]] = {}

    def announce(self, place: Place) -> None:
        """Wake everybody who waits at a place."""
        for waiter in self._waiting.get(place, ()):
            if not waiter.done():
                waiter.set_result(None)

    def announce_where(self, concerned: Callable[[Place], bool]) -> None:
        """Wake everybody who waits at any place that `concerned` says yes to."""
        for place in filter(concerned, self._waiting):
            self.announce(place)

    async def wait(self, place: Place, *, timeout_s: float) -> None:
        """Return at the next announcement, or after `timeout_s` seconds."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(place, {})
        waiters[waiter] = None
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            del waiters[waiter]
            if not waiters:
                del self._waiting[place]

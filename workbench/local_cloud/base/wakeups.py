"""Wakes tasks that wait for an item at a place. Holds no items: a task that is woken looks for them itself."""

import asyncio
from collections.abc import Callable

Place = tuple[str, bytes]  # a queue's id and a partition's key


class Arrivals:
    """The waiting tasks of each place. An announcement wakes all of a place, in the order in which they began to wait.

    For one event loop.
    """

    def __init__(self) -> None:
        self._waiting: dict[Place, dict[asyncio.Future[None], None]] = {}

    def announce(self, place: Place) -> None:
        """Wake every task that waits at a place."""
        for waiter in self._waiting.get(place, ()):
            if not waiter.done():
                waiter.set_result(None)

    def announce_where(self, concerned: Callable[[Place], bool]) -> None:
        """Wake every task that waits at a place for which `concerned` returns True."""
        for place in filter(concerned, self._waiting):
            self.announce(place)

    async def wait(self, place: Place, *, timeout_s: float) -> None:
        """Return at the next announcement for `place`, or after `timeout_s` seconds of real time."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(place, {})
        waiters[waiter] = None
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            del waiters[waiter]
            if not waiters:
                del self._waiting[place]

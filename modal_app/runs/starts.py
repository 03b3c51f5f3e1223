"""The starts of sandboxes in one container: a few at the same time, in the order in which their runs have come.

Hundreds of runs may be accepted within a second. If all of them asked for their sandboxes at once, none would have its
own in time, and the runs that go on already would hardly get a turn. How many start at once follows from how long they
take: one more after a quick start that others have waited behind, one less after a slow one.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

FIRST = 8
LEAST = 2


class Starts:
    """Gives turns to start a sandbox. A start of at most `quick_s` seconds is quick, one of more than `slow_s` slow.

    At most `most` have a turn at the same time, and at first `FIRST`. `clock` gives seconds that never go back. To be
    used from one event loop.
    """

    def __init__(
        self, *, quick_s: float, slow_s: float, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = min(FIRST, most)
        self._quick_s = quick_s
        self._slow_s = slow_s
        self._most = most
        self._clock = clock
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def ahead(self) -> int:
        """How many would be before one that asks for a turn now; 0 when it would have its turn at once."""
        busy = bool(self._waiting) or self._under_way >= self.limit
        return self._under_way + len(self._waiting) if busy else 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the duration of the block, which starts a sandbox."""
        await self._enter()
        started = self._clock()
        worked = False
        try:
            yield
            worked = True
        finally:
            self._learn(self._clock() - started, worked=worked)
            self._leave()

    async def _enter(self) -> None:
        if not self.ahead:
            self._under_way += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # whose turn it is now may have been looked for since
                    self._waiting.remove(turn)
            else:  # it was given the turn at this very moment
                self._leave()
            raise

    def _learn(self, took_s: float, *, worked: bool) -> None:
        """Adapt the limit to how long a start took. One that failed quickly tells nothing."""
        if took_s > self._slow_s:
            self.limit = max(min(LEAST, self._most), self.limit - 1)
        elif worked and took_s <= self._quick_s and self._waiting:
            self.limit = min(self._most, self.limit + 1)

    def _leave(self) -> None:
        self._under_way -= 1
        while self._waiting and self._under_way < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._under_way += 1
                turn.set_result(None)

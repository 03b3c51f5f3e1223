"""Groups a program's output into pieces of a good size for events, with little delay.

An unbuffered `print("a", 1)` is four writes, and readers want one event; a program that writes without a break would
make thousands of events a second, each with a cost in four processes. So the beginning of a line is held for a moment
until its rest comes, and after each piece the next one is held for a moment: for longer when many streams of a
container print at the same time, so that all of them together make no more events than one may.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

HOLD_S = 0.02  # nobody sees it, and the writes of one print are microseconds apart
PAUSE_S = 0.005  # 200 pieces a second are more than anybody reads
MOST_PAUSE_S = 0.25  # however many streams print
MAX_HELD_BYTES = 64 * 1024


class Pace:
    """The pauses after pieces, of all streams of a container: `pause_s` seconds for each stream that has one just now.

    `clock` gives seconds that never go back.
    """

    def __init__(self, pause_s: float = PAUSE_S, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._until: dict[int, float] = {}  # when the pauses end, by stream

    def pause(self, stream: int) -> float:
        """Begin a stream's pause; returns when it ends. `stream` is a number that no other stream has meanwhile."""
        now = self._clock()
        self._until = {one: until for one, until in self._until.items() if until > now and one != stream}
        longest_s = max(self._pause_s, MOST_PAUSE_S)
        until = self._until[stream] = now + min(longest_s, self._pause_s * (1 + len(self._until)))
        return until


async def pieces(chunks: AsyncIterator[bytes], pace: Pace, *, hold_s: float = HOLD_S) -> AsyncIterator[bytes]:
    """Yield the same bytes in the same order, in other pieces.

    A piece ends at the end of a line, unless the rest of a line does not come within `hold_s` seconds. After each piece
    comes a pause of `pace`, unless MAX_HELD_BYTES are held.
    """
    held = bytearray()
    held_since = paused_until = 0.0
    following = asyncio.ensure_future(anext(chunks, None))
    try:
        while True:
            now = time.monotonic()
            due = paused_until if held.endswith(b"\n") else max(paused_until, held_since + hold_s)
            if held and (now >= due or len(held) >= MAX_HELD_BYTES):
                yield bytes(held)
                held.clear()
                paused_until = pace.pause(id(held))
                continue
            done, _ = await asyncio.wait([following], timeout=due - now if held else None)
            if not done:
                continue
            chunk = following.result()
            if chunk is None:
                break
            held_since = held_since if held else time.monotonic()
            held += chunk
            following = asyncio.ensure_future(anext(chunks, None))
    finally:
        following.cancel()
    if held:
        yield bytes(held)

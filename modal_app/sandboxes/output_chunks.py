"""Groups a program's output into pieces of a good size for events, with little delay.

An unbuffered `print("a", 1)` is four writes, and readers want one event; a program that writes without a break would
make thousands of events a second, each with a cost in four processes. So the beginning of a line is held for a moment
until its rest comes, and after each piece the next one is held for a moment.
"""

import asyncio
import time
from collections.abc import AsyncIterator

HOLD_S = 0.02  # nobody sees it, and the writes of one print are microseconds apart
PAUSE_S = 0.005  # 200 pieces a second are more than anybody reads
MAX_HELD_BYTES = 64 * 1024


async def pieces(
    chunks: AsyncIterator[bytes], *, hold_s: float = HOLD_S, pause_s: float = PAUSE_S
) -> AsyncIterator[bytes]:
    """Yield the same bytes in the same order, in other pieces.

    A piece ends at the end of a line, unless the rest of a line does not come within `hold_s` seconds. Pieces of less
    than MAX_HELD_BYTES are at least `pause_s` seconds apart.
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
                paused_until = time.monotonic() + pause_s
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

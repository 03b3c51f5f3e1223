"""Puts the small writes of one line together: an unbuffered `print("a", 1)` is four writes, and readers want one event.

A chunk that ends a line goes on at once; the beginning of a line waits for its rest, but only for a moment.
"""

import asyncio
import time
from collections.abc import AsyncIterator

HOLD_S = 0.02  # nobody sees it, and the writes of one print are microseconds apart
MAX_HELD_BYTES = 64 * 1024


async def whole_lines(chunks: AsyncIterator[bytes], *, hold_s: float = HOLD_S) -> AsyncIterator[bytes]:
    """Yield the same bytes in the same order, cut after line ends where the lines come within `hold_s` seconds."""
    held = bytearray()
    deadline = 0.0
    following = asyncio.ensure_future(anext(chunks, None))
    try:
        while True:
            left = max(0.0, deadline - time.monotonic()) if held else None
            done, _ = await asyncio.wait([following], timeout=left)
            chunk = following.result() if done else b""
            if chunk is None:
                break
            if chunk:
                following = asyncio.ensure_future(anext(chunks, None))
                deadline = deadline if held else time.monotonic() + hold_s
                held += chunk
            if held and (not done or held.endswith(b"\n") or len(held) >= MAX_HELD_BYTES):
                yield bytes(held)
                held.clear()
    finally:
        following.cancel()
    if held:
        yield bytes(held)

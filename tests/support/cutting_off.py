"""Work that is cancelled at many moments of its beginning, and the look for what stays of it."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable

from tests.support.processes import naming

DEADLINE_S = 30


async def cut_off_at_many_moments(
    work: Callable[[], Awaitable[object]], *, times: int, latest_s: float, seed: int
) -> None:
    """Begin something again and again, and cancel each after another short while."""
    moments = random.Random(seed)
    for _ in range(times):
        task = asyncio.ensure_future(work())
        await asyncio.sleep(moments.uniform(0, latest_s))
        task.cancel()
        await asyncio.wait([task], timeout=DEADLINE_S)
        assert task.cancelled()


async def nothing_is_left(word: str, descriptors: set[str]) -> None:
    """Return when no process names `word` and we hold no other descriptors than before; fail when that takes long."""
    deadline = asyncio.get_running_loop().time() + 5  # the dead are reaped by whoever has inherited them
    while found := [*naming(word), *(set(os.listdir("/proc/self/fd")) - descriptors)]:
        assert asyncio.get_running_loop().time() < deadline, found
        await asyncio.sleep(0.02)

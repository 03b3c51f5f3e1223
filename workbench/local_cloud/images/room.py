"""Ends a step of a build that fills the disk: what a program writes to a root file system has no limit of its own."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from workbench.local_cloud.store.disk_reserve import lacking

_INTERVAL_S = 0.2


async def while_there_is_room(directory: Path, work: Coroutine[Any, Any, None]) -> None:
    """Do some work, and cancel it when the disk of a directory has less free space than its reserve.

    Raises what the work raises, and CloudError RESOURCE_EXHAUSTED.
    """
    task = asyncio.create_task(work)
    try:
        while not task.done():
            if (failure := lacking(directory)) is not None:
                raise failure
            await asyncio.wait([task], timeout=_INTERVAL_S)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    await task

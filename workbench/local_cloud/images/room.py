"""Ends a build that fills the disk: what a program writes to a root file system has no limit of its own."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.images.build_sandbox import BuildFailedError
from workbench.local_cloud.rootfs.layers import LayerError
from workbench.local_cloud.store.disk_reserve import lacking

_INTERVAL_S = 0.2
_LITTLE_BYTES = 1024 * 1024  # what a full disk does not have
Result = TypeVar("Result")


async def while_there_is_room(directory: Path, work: Coroutine[Any, Any, Result]) -> Result:
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
    return await task


async def with_its_reason(directory: Path, work: Coroutine[Any, Any, Result]) -> Result:
    """Do a step of a build; if it fails with the disk of a directory full, that is told beside its own words.

    To be called before what the step has written is removed. Raises what the work raises, and CloudError
    RESOURCE_EXHAUSTED.
    """
    try:
        return await work
    except (BuildFailedError, LayerError, OSError) as error:
        if (failure := lacking(directory, _LITTLE_BYTES)) is None:
            raise
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise CloudError(failure.reason, f"{failure.message} The step ended with: {said}") from error

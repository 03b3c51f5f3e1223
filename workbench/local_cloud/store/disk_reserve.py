"""The disk reserve: a part of the disk that stays free, so that one guest cannot fill it for everybody else.

Code that writes for a guest calls `require_room` first. What a guest writes by itself is limited by the watchdogs.
"""

import os
from pathlib import Path

from workbench.local_cloud.base.errors import CloudError, exhausted

RESERVE_VARIABLE = "WORKBENCH_DISK_RESERVE_MB"
_MOST_BYTES = 2 * 1024**3
_SHARE = 20  # of a disk below 40 GiB a twentieth is kept free
_SHARE_OF_FILES = 100  # where a disk can have only so many
_MEBIBYTE = 1024 * 1024


def reserve_bytes(status: os.statvfs_result) -> int:
    """The bytes of a disk that stay free: WORKBENCH_DISK_RESERVE_MB, else a twentieth of it and at most 2 GiB."""
    given = os.environ.get(RESERVE_VARIABLE, "")
    if given.isascii() and given.isdigit():
        return int(given) * _MEBIBYTE
    return min(_MOST_BYTES, status.f_blocks * status.f_frsize // _SHARE)


def require_room(directory: Path, wanted: int = 0) -> None:
    """Raise CloudError RESOURCE_EXHAUSTED if writing `wanted` more bytes to a directory would use up the reserve."""
    if (failure := lacking(directory, wanted)) is not None:
        raise failure


def lacking(directory: Path, wanted: int = 0) -> CloudError | None:
    """Return the error that `require_room` raises, None when there is room for `wanted` more bytes."""
    status = os.statvfs(directory)
    if status.f_favail < status.f_files // _SHARE_OF_FILES:
        return exhausted(
            f"The local cloud's disk has room for {status.f_favail} more files only. Remove files, or stop the cloud "
            "and run `workbench cloud gc --keep 7d`."
        )
    free, reserve = status.f_bavail * status.f_frsize, reserve_bytes(status)
    if free - wanted >= reserve:
        return None
    return exhausted(
        f"The local cloud's disk is nearly full: {max(1, wanted // _MEBIBYTE)} MiB are wanted, {free // _MEBIBYTE} MiB "
        f"are free, and {reserve // _MEBIBYTE} MiB of those must stay free ({RESERVE_VARIABLE}). Remove files, or stop "
        "the cloud and run `workbench cloud gc --keep 7d`."
    )

"""Room on the disk: a part of it stays free, whatever guests write, so that nobody takes everybody else's last.

Whoever writes for a guest asks first. What a guest writes by itself is the watchdogs' to look at.
"""

import os
from pathlib import Path

from workbench.local_cloud.base.errors import CloudError, exhausted

RESERVE_VARIABLE = "WORKBENCH_DISK_RESERVE_MB"
_MOST_BYTES = 2 * 1024**3
_SHARE = 20  # a twentieth of a small disk
_MEBIBYTE = 1024 * 1024


def reserve_bytes(status: os.statvfs_result) -> int:
    """How much of a disk stays free."""
    given = os.environ.get(RESERVE_VARIABLE, "")
    if given.isascii() and given.isdigit():
        return int(given) * _MEBIBYTE
    return min(_MOST_BYTES, status.f_blocks * status.f_frsize // _SHARE)


def require_room(directory: Path, wanted: int = 0) -> None:
    """Raise CloudError RESOURCE_EXHAUSTED if `wanted` bytes more on a directory's disk would take of the reserve."""
    if (failure := lacking(directory, wanted)) is not None:
        raise failure


def lacking(directory: Path, wanted: int = 0) -> CloudError | None:
    """Why `wanted` bytes more cannot be written to a directory's disk; None when they can."""
    status = os.statvfs(directory)
    free, reserve = status.f_bavail * status.f_frsize, reserve_bytes(status)
    if free - wanted >= reserve:
        return None
    return exhausted(
        f"The local cloud's disk is nearly full: {free // _MEBIBYTE} MiB are free, of which {reserve // _MEBIBYTE} MiB "
        f"stay so, and {max(1, wanted // _MEBIBYTE)} MiB are wanted. Free some, or stop the cloud and run "
        "`workbench cloud gc --keep 7d`."
    )

"""The free space of disks, looked up once for all watchdogs. They are woken when a disk fills quickly."""

import asyncio
import os
import time
from pathlib import Path

from workbench.local_cloud.sandboxes.limits.pacing import Pacer
from workbench.local_cloud.sandboxes.limits.sandbox_limits import MEBIBYTE
from workbench.local_cloud.store.disk_reserve import reserve_bytes

INTERVAL_S = 0.2  # a disk's free space is looked up at most this often
FALL_BYTES = 64 * MEBIBYTE  # when free space has fallen by this much, all watchdogs measure at once
_OFTEN = 10  # up to so many watchdogs check at each interval; with more, each checks less often


class Disks:
    """The disks of the sandboxes of one event loop. A disk is named by its device number (`st_dev`)."""

    def __init__(self) -> None:
        self._free: dict[int, tuple[float, int]] = {}
        self._most: dict[int, int] = {}  # the largest free space since it has last fallen by FALL_BYTES
        self._reserve: dict[int, int] = {}
        self._grown: dict[object, tuple[int, int]] = {}  # device and bytes of growth, by watchdog
        self._fallen = asyncio.Event()
        self.walks = Pacer(5.0)
        """Paces the walks in which the watchdogs measure their directories."""

    def free(self, device: int, directory: Path) -> int:
        """Return the free bytes of a disk; `directory` is on it. 0 when the directory does not exist any more."""
        now = time.monotonic()
        at, free = self._free.get(device, (float("-inf"), 0))
        if now - at < INTERVAL_S:
            return free
        try:
            status = os.statvfs(directory)
        except OSError:
            return 0
        free = status.f_bavail * status.f_frsize
        self._reserve[device] = reserve_bytes(status)
        self._free[device] = now, free
        self._most[device] = max(free, self._most.get(device, free))
        if free <= self._most[device] - FALL_BYTES:
            self._most[device] = free
            self._fallen.set()
            self._fallen = asyncio.Event()
        return free

    def is_nearly_full(self, device: int) -> bool:
        """Whether a disk had less free space than the disk reserve when it was last looked up by `free`."""
        return self._free[device][1] < self._reserve[device] if device in self._free else False

    def note_growth(self, who: object, device: int, size: int) -> None:
        """Record by how many bytes the files of the watchdog `who` on a disk have grown since it began."""
        self._grown[who] = device, size

    def forget(self, who: object) -> None:
        """Drop what `note_growth` has recorded of `who`. Idempotent."""
        self._grown.pop(who, None)

    def has_grown_most(self, who: object, device: int) -> bool:
        """Whether the files of `who` have grown more than those of any other watchdog on the disk."""
        most = max((size for on, size in self._grown.values() if on == device), default=0)
        return who in self._grown and self._grown[who] == (device, most) and most > 0

    async def turn(self) -> None:
        """Wait until the next check of a watchdog is due, or another has seen a disk's free space fall."""
        pause_s = INTERVAL_S * max(1.0, self.walks.participants / _OFTEN)
        try:
            async with asyncio.timeout(pause_s):
                await self._fallen.wait()
        except TimeoutError:
            pass  # the check is due

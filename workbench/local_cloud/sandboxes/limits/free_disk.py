"""How much is free on disks, looked up once for all watchdogs, which are woken when a disk fills quickly."""

import asyncio
import os
import time
from pathlib import Path

from workbench.local_cloud.sandboxes.limits.pacing import Pacer
from workbench.local_cloud.sandboxes.limits.sandbox_limits import MEBIBYTE
from workbench.local_cloud.store.disk_reserve import reserve_bytes

INTERVAL_S = 0.2  # between two looks at a disk
FALL_BYTES = 64 * MEBIBYTE  # a disk that fills so much calls for a walk at once
_OFTEN = 10  # so few watchdogs look at every interval; more take turns, and wake each other


class Disks:
    """The disks of one loop's sandboxes."""

    def __init__(self) -> None:
        self._free: dict[int, tuple[float, int]] = {}
        self._most: dict[int, int] = {}  # that was free since the last fall
        self._reserve: dict[int, int] = {}
        self._grown: dict[object, tuple[int, int]] = {}  # device and bytes, by who has measured
        self._fallen = asyncio.Event()
        self.walks = Pacer(5.0)
        """Every watchdog takes part: it walks its directories in its turn."""

    def free(self, device: int, directory: Path) -> int:
        """Bytes that are free on a disk, of which a directory is given; 0 when that is gone."""
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
        """Whether a disk, which was looked at, has less free than is to stay so."""
        return self._free[device][1] < self._reserve[device] if device in self._free else False

    def note_growth(self, who: object, device: int, size: int) -> None:
        """Write down by how many bytes somebody's files on a disk have grown; forgotten with `forget`."""
        self._grown[who] = device, size

    def forget(self, who: object) -> None:
        """Somebody writes no more. Idempotent."""
        self._grown.pop(who, None)

    def has_grown_most(self, who: object, device: int) -> bool:
        """Whether nobody's files on a disk have grown more, as far as was measured."""
        most = max((size for on, size in self._grown.values() if on == device), default=0)
        return who in self._grown and self._grown[who] == (device, most) and most > 0

    async def turn(self) -> None:
        """Wait until it is a watchdog's turn to look: in its time, or when another has seen a disk fall."""
        pause_s = INTERVAL_S * max(1.0, self.walks.parts / _OFTEN)
        try:
            async with asyncio.timeout(pause_s):
                await self._fallen.wait()
        except TimeoutError:
            pass  # its own time has come

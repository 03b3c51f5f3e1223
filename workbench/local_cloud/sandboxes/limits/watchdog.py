"""Watches the limits that the kernel does not enforce: disk in the workspace, and memory where there are no cgroups.

The watchdog measures; its owner ends a sandbox that is over a limit, with a reason. Walking a large workspace takes
long. So it is walked at once when the disk's free space has fallen, and otherwise less often the longer a walk takes
and the more sandboxes there are.
"""

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from workbench.local_cloud.base.guest_directories import opened_dir
from workbench.local_cloud.base.host_processes import family
from workbench.local_cloud.sandboxes.limits.free_disk import FALL_BYTES, INTERVAL_S, Disks
from workbench.local_cloud.sandboxes.limits.sandbox_limits import MEBIBYTE, Limits

MAX_DEPTH = 200  # one descriptor is open per level while walking
_WALK_COST_SHARE = 20  # a walk may take a twentieth of the time

Inode = tuple[int, int]
MeasureInside = Callable[[Sequence[Path], Limits], Awaitable["Usage"]]  # may raise UnmeasurableError


class UnmeasurableError(Exception):
    """A directory tree cannot be measured; the message says what in it prevents that."""


class UnreadableError(UnmeasurableError):
    """A directory in a tree cannot be read by the cloud's user."""


@dataclass(frozen=True)
class Exceeded:
    """The limit that a sandbox has exceeded; `words` say the same for its result, beginning with "it" or "its"."""

    what: Literal["memory", "workspace"]
    words: str

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Usage:
    """What a directory tree takes: `size` in bytes on the disk, and the number of its entries."""

    size: int = 0
    entries: int = 0


@dataclass(frozen=True)
class Written:
    """Where a mount is an overlay: the directory of what guests have written, and at most what is below it."""

    directory: Path
    below: Usage


@dataclass(frozen=True)
class Watched:
    """A writable mount at `path`; `written` returns what is known of its overlay now, None for a plain directory."""

    path: Path
    written: Callable[[], Written | None] = lambda: None


def measure(directory: Path, *, enough: Limits, seen: set[Inode]) -> Usage:
    """Measure a tree without following links, counting each inode once; stops early when it exceeds `enough`.

    `seen` holds the inodes that were counted already, and gets those with several links. Raises OSError when the root
    cannot be opened, and UnmeasurableError when a directory below it cannot be read, or is too deep.
    """
    size = entries = 0
    with opened_dir(directory) as root:
        for status in _below(root, MAX_DEPTH):
            entries += 1
            inode = (status.st_dev, status.st_ino)
            if inode not in seen:
                size += status.st_blocks * 512
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                seen.add(inode)
            if size > enough.workspace_bytes or entries > enough.workspace_entries:
                break
    return Usage(size, entries)


def _below(directory: int, depth: int) -> Iterator[os.stat_result]:
    """Yield the status of every entry below an open directory, also of names that are not UTF-8."""
    if depth == 0:
        raise UnmeasurableError(f"its directories are more than {MAX_DEPTH} deep")
    with os.scandir(directory) as listing:
        for entry in listing:
            try:
                status = entry.stat(follow_symlinks=False)
                yield status
                if stat.S_ISDIR(status.st_mode):
                    with opened_dir(entry.name, dir_fd=directory) as inner:
                        yield from _below(inner, depth - 1)
            except PermissionError:
                raise UnreadableError("it has a directory that the cloud may not read") from None
            except OSError:
                continue  # it was removed meanwhile


def unnamed(pid: int, device: int, *, seen: set[Inode]) -> int:
    """Return the bytes on a disk of removed files that a process or its descendants still have open.

    `seen` holds the inodes that were counted already, and gets these.
    """
    total = 0
    for process in family(pid):
        try:
            with os.scandir(f"/proc/{process.pid}/fd") as listing:
                names = [entry.path for entry in listing]
        except OSError:
            continue
        for name in names:
            try:
                status = Path(name).stat()
            except OSError:
                continue
            inode = (status.st_dev, status.st_ino)
            if stat.S_ISREG(status.st_mode) and not status.st_nlink and status.st_dev == device and inode not in seen:
                seen.add(inode)
                total += status.st_blocks * 512
    return total


def private_memory(pid: int) -> int:
    """Return the bytes of memory that a process and its descendants do not share; 0 when it has ended."""
    total = 0
    for process in family(pid):
        try:
            memory = process.memory_info()
        except psutil.Error:
            continue
        total += memory.rss - memory.shared
    return total


class Watchdog:
    """Watches one sandbox, and calls `exceeded` once when it is over a limit."""

    def __init__(
        self,
        limits: Limits,
        mounts: Sequence[Watched],
        *,
        pid: int,
        watch_memory: bool,
        out_of_memory: Callable[[], Exceeded | None],
        disks: Disks,
        exceeded: Callable[[Exceeded], None],
        inside: MeasureInside | None = None,
    ) -> None:
        """`mounts` are the writable ones, `pid` is the sandbox's process 1 as the host sees it.

        `watch_memory` says that no cgroup limits the memory; `out_of_memory` returns a reason once the kernel has
        killed a process of the sandbox for its memory, else None. `inside` measures directories that belong to several
        users, of whom the cloud's may be none.
        """
        self._limits = limits
        self._mounts = tuple(mounts)
        self._pid = pid
        self._watch_memory = watch_memory
        self._out_of_memory = out_of_memory
        self._disks = disks
        self._exceeded = exceeded
        self._inside = inside
        self._next_walk = time.monotonic()
        self._disk = (mounts[0].path.stat().st_dev, mounts[0].path) if mounts else None
        self._free = self._free_now()
        self._first: int | None = None  # the bytes of its files when they were first measured

    def watch(self, mount: Watched) -> None:
        """Watch a further mount from now on."""
        self._mounts = (*self._mounts, mount)

    async def run(self) -> None:
        """Watch until cancelled or a limit is exceeded."""
        with self._disks.walks.participant():
            try:
                while True:
                    await (asyncio.sleep(INTERVAL_S) if self._watch_memory else self._disks.turn())
                    reason = await self._look()
                    if reason is not None:
                        self._exceeded(reason)
                        return
            finally:
                self._disks.forget(self)

    async def _look(self) -> Exceeded | None:
        if (killed := self._out_of_memory()) is not None:
            return killed
        if self._watch_memory:
            used = await asyncio.to_thread(private_memory, self._pid)
            if used > self._limits.memory_bytes:
                return Exceeded("memory", f"it used more than {self._limits.memory_bytes // MEBIBYTE} MiB of memory")
        free = self._free_now()
        if self._disk is None:
            return None
        full = self._disks.is_nearly_full(self._disk[0])
        if not full and time.monotonic() < self._next_walk and free > self._free - FALL_BYTES:
            return None
        started = time.monotonic()
        try:
            usage, own = await self._usage()
        except UnmeasurableError as error:
            return Exceeded("workspace", str(error))
        taken = time.monotonic() - started
        self._next_walk = time.monotonic() + max(self._disks.walks.pause_s(taken), taken * _WALK_COST_SHARE)
        self._free = self._free_now()
        if usage.size > self._limits.workspace_bytes:
            limit = self._limits.workspace_bytes // MEBIBYTE
            return Exceeded("workspace", f"its files took more than {limit} MiB of disk")
        if usage.entries > self._limits.workspace_entries:
            return Exceeded("workspace", f"it made more than {self._limits.workspace_entries} files")
        self._first = own if self._first is None else self._first
        self._disks.note_growth(self, self._disk[0], own - self._first)
        if full and self._disks.has_grown_most(self, self._disk[0]):
            grown = (own - self._first) // MEBIBYTE
            return Exceeded("workspace", f"the disk is nearly full, and its files have grown most: by {grown} MiB")
        return None

    async def _usage(self) -> tuple[Usage, int]:
        """Return what `_measure` does, measured inside where the cloud's user may not look."""
        try:
            return await asyncio.to_thread(self._measure)
        except UnreadableError:
            if self._inside is None:
                raise
            usage = await self._inside([mount.path for mount in self._mounts], self._limits)
            return usage, usage.size

    def _measure(self) -> tuple[Usage, int]:
        """Return what the mounts take at most, exactly if that is over a limit, and the bytes without lower layers."""
        mounts = self._mounts
        written = [mount.written() for mount in mounts]
        pairs = zip(mounts, written, strict=True)
        own = self._walked([mount.path if found is None else found.directory for mount, found in pairs], mounts)
        below = [found.below for found in written if found is not None]
        size = own.size + sum(usage.size for usage in below)
        entries = own.entries + sum(usage.entries for usage in below)
        if below and (size > self._limits.workspace_bytes or entries > self._limits.workspace_entries):
            return self._walked([mount.path for mount in mounts], mounts), own.size
        return Usage(size, entries), own.size

    def _walked(self, directories: Sequence[Path], mounts: Sequence[Watched]) -> Usage:
        size = entries = 0
        seen: set[Inode] = set()
        for directory, mount in zip(directories, mounts, strict=True):
            try:
                usage = measure(directory, enough=self._limits, seen=seen)
                size += usage.size + unnamed(self._pid, mount.path.stat().st_dev, seen=seen)
            except OSError:  # it is being removed
                continue
            entries += usage.entries
        return Usage(size, entries)

    def _free_now(self) -> int:
        return 0 if self._disk is None else self._disks.free(*self._disk)

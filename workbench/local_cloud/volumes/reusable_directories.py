"""Keeps the directories of ended mounts for the next mount of the same place.

A project is usually run again, and making a thousand inodes takes longer than the rest of a mount. A directory is kept
only if it holds exactly the committed entries, and it is reused only for the same volume, sub-path and owner. So
nothing but committed data passes from one run to the next, and nothing from one project to another.
"""

import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from workbench.local_cloud.base.guest_directories import Skipped, opened_dir, remove_tree, walk
from workbench.local_cloud.volumes.scan import Known
from workbench.local_cloud.volumes.stacks import Place

_MAX_KEPT = 8
_MAX_ENTRIES = 20_000
_MAX_BYTES = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class ReusableDirectory:
    """A working copy's directory that no mount uses, and the entries in it by path."""

    holder: Path
    known: dict[str, Known]


class ReusableDirectories:
    """Keeps at most eight directories, the newest ones, one per place. Safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Place, ReusableDirectory] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, place: Place, spare: ReusableDirectory) -> None:
        """Keep a directory, or remove it if it is too large; the place's older one and a ninth one are removed."""
        size = sum(known.entry.size for known in spare.known.values())
        if len(spare.known) > _MAX_ENTRIES or size > _MAX_BYTES:
            remove_tree(spare.holder)
            return
        with self._lock:
            surplus = [self._kept.pop(place)] if place in self._kept else []
            self._kept[place] = spare
            if len(self._kept) > _MAX_KEPT:
                surplus.append(self._kept.popitem(last=False)[1])
        for removed in surplus:
            remove_tree(removed.holder)

    def take(self, place: Place) -> ReusableDirectory | None:
        """Return the directory that is kept for a place, None when there is none; it is the caller's from now on."""
        with self._lock:
            return self._kept.pop(place, None)


def is_plain(tree: Path) -> bool:
    """Whether a directory without a guest holds only what a commit can describe.

    That is: no hard links, no extended attributes, no special mode bits, no devices or sockets.
    """
    skipped: list[Skipped] = []
    with opened_dir(tree) as root:
        for found in walk(root, skipped):
            mode = found.status.st_mode
            if stat.S_ISREG(mode) and found.status.st_nlink > 1:
                return False
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)) or mode & 0o7000:
                return False
            if os.listxattr(tree / found.path, follow_symlinks=False):
                return False
    return not skipped and not os.listxattr(tree)

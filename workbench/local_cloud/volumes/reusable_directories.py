"""Directories of ended mounts, kept for the next mount of the same place.

A run of a project is usually followed by another, and to make a thousand inodes costs more than all the rest of a
mount. A directory is kept only when it holds exactly what is known of it, and only for the same volume, sub-path and
owner, so that nothing passes from one run to the next but what was committed, and nothing from project to project.
"""

import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from workbench.local_cloud.base.guest_directories import Skipped, opened_dir, remove_tree, walk
from workbench.local_cloud.volumes.scan import Known

_MAX_KEPT = 8
_MAX_ENTRIES = 20_000
_MAX_BYTES = 256 * 1024**2

Place = tuple[str, str, int | None]  # volume, sub-path, owner


@dataclass(frozen=True, slots=True)
class ReusableDirectory:
    """A directory that nobody uses, and what it holds."""

    holder: Path
    known: dict[str, Known]


class ReusableDirectories:
    """The newest few, one per place. Safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Place, ReusableDirectory] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, place: Place, spare: ReusableDirectory) -> None:
        """Take a directory over; one that is too many is removed."""
        size = sum(known.entry.size for known in spare.known.values())
        if len(spare.known) > _MAX_ENTRIES or size > _MAX_BYTES:
            remove_tree(spare.holder)
            return
        with self._lock:
            surplus = [self._kept.pop(place)] if place in self._kept else []
            self._kept[place] = spare
            if len(self._kept) > _MAX_KEPT:
                surplus.append(self._kept.popitem(last=False)[1])
        for one in surplus:
            remove_tree(one.holder)

    def take(self, place: Place) -> ReusableDirectory | None:
        """Hand over what is kept for a place, to this caller alone."""
        with self._lock:
            return self._kept.pop(place, None)


def is_plain(tree: Path) -> bool:
    """Whether nothing is in an abandoned tree but what a commit describes: no second link, no attribute, no device."""
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

"""Compares a working copy with its last known state. Changed files are hashed and stored; the copy is not changed."""

import hashlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from workbench.local_cloud.base.errors import CloudError, Reason
from workbench.local_cloud.base.guest_directories import Found, Skipped, open_regular, walk
from workbench.local_cloud.store.content import read_chunks
from workbench.local_cloud.volumes.committed import Entry, Removal

Stamp = tuple[int, int, int, int]  # size, mtime_ns, ctime_ns, inode
# A file that was changed less than this before its stamp is taken may change again within the same tick of the file
# system's clock and keep that stamp. It gets none, so it is hashed at the next scan, too.
_SETTLED_NS = 20_000_000


Keep = Callable[[BinaryIO, int], tuple[str, int]]  # stores at most so many bytes of a file; returns (sha256, size)


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """What one mount may hold: as many entries as a v1 volume, and files up to a size, against a full disk."""

    max_entries: int = 500_000
    max_file_bytes: int = 16 * 1024**3


@dataclass(frozen=True, slots=True)
class Known:
    """An entry, and the stamp of its file then. Without a stamp the file must be hashed to be compared."""

    entry: Entry
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of a scan: the changes, the state that is known now, and the entries that were skipped.

    `files_changed` counts files and links that were added, changed or removed; `bytes_changed` is the size of the first
    two. `entries_added` and `size_added` are how many entries, and bytes of their files, there are more than before.
    """

    changes: list[Entry | Removal]
    known: dict[str, Known]
    files_changed: int
    bytes_changed: int
    skipped: tuple[Skipped, ...]
    entries_added: int = 0
    size_added: int = 0


def _stamp_of(status: os.stat_result) -> Stamp | None:
    """Return a file's stamp, None if it was changed too recently for a stamp to prove anything."""
    if status.st_ctime_ns + _SETTLED_NS > time.time_ns():
        return None
    return identity(status)


def scan(root: int, known: dict[str, Known], *, keep: Keep | None, limits: ScanLimits) -> Scan:
    """Compare the open directory `root` with `known`; `keep` stores changed files, without it they are only hashed.

    A file that vanishes meanwhile counts as removed; of one that grows, as many bytes are taken as it had when it was
    opened. Raises CloudError RESOURCE_EXHAUSTED when there are too many entries, and whatever `keep` raises.
    """
    skipped: list[Skipped] = []
    seen: dict[str, Known] = {}
    changes: list[Entry | Removal] = []
    files = moved = 0
    for found in walk(root, skipped):
        if len(seen) >= limits.max_entries:
            raise too_many(limits)
        before = known.get(found.path)
        try:
            now = look(found, before, keep, limits, skipped)
        except FileNotFoundError:
            continue
        except OSError as error:
            skipped.append(Skipped(found.path, f"cannot be read ({error.strerror})"))
            continue
        if now is None:
            continue
        seen[found.path] = now
        if before is None or not now.entry.same_as(before.entry):
            changes.append(now.entry)
            if now.entry.kind != "dir":
                files += 1
                moved += now.entry.size
    kept_out = {item.path for item in skipped}
    for path, before in known.items():
        if path in seen:
            continue
        if is_at_or_below(path, kept_out):
            seen[path] = before
        else:
            changes.append(Removal(path))
            files += before.entry.kind != "dir"
    return Scan(changes, seen, files, moved, tuple(skipped))


def look(
    found: Found, before: Known | None, keep: Keep | None, limits: ScanLimits, skipped: list[Skipped]
) -> Known | None:
    """Return what an entry is now, None for what no volume can hold, which is added to `skipped`. Raises OSError.

    A file whose stamp is that in `before` is not read again; `keep` is as for `scan`.
    """
    status, path = found.status, found.path
    mode = stat.S_IMODE(status.st_mode) & 0o777
    if stat.S_ISDIR(status.st_mode):
        return Known(Entry(path, "dir", mode, mtime=status.st_mtime), None)
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(found.name, dir_fd=found.directory)
        if not _is_text(target):
            skipped.append(Skipped(path, "the link's target is not UTF-8"))
            return None
        return Known(Entry(path, "symlink", 0o777, target=target, mtime=status.st_mtime), None)
    if not stat.S_ISREG(status.st_mode):
        skipped.append(Skipped(path, "neither a file, a directory nor a symbolic link", is_loss=False))
        return None
    if before is not None and before.entry.kind == "file" and before.stamp == identity(status):
        entry = before.entry
        if entry.mode != mode:
            entry = Entry(path, "file", mode, entry.size, entry.sha256, "", entry.mtime)
        return Known(entry, before.stamp)
    if status.st_size > limits.max_file_bytes:
        skipped.append(Skipped(path, f"larger than {limits.max_file_bytes} bytes"))
        return None
    return _read(found, keep, limits)


def _read(found: Found, keep: Keep | None, limits: ScanLimits) -> Known | None:
    descriptor = open_regular(found.name, dir_fd=found.directory)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        stamp = _stamp_of(status)
        limit = min(status.st_size, limits.max_file_bytes)
        sha256, size = (keep or _hash)(file, limit)
    mode = stat.S_IMODE(status.st_mode) & 0o777
    return Known(Entry(found.path, "file", mode, size, sha256, "", status.st_mtime), stamp)


def _hash(file: BinaryIO, limit: int) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for chunk in read_chunks(file, max_bytes=limit):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def too_many(limits: ScanLimits) -> CloudError:
    """Return the error for a mount with too many entries."""
    return CloudError(
        Reason.RESOURCE_EXHAUSTED,
        f"A mount of a volume holds at most {limits.max_entries} files and directories, and this one has more: "
        "remove some of them.",
    )


def identity(status: os.stat_result) -> Stamp:
    """Return the stamp of a file's status: it changes whenever the file does."""
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_at_or_below(path: str, roots: set[str]) -> bool:
    """Whether a path is one of some paths, or below one."""
    while path:
        if path in roots:
            return True
        path = path.rpartition("/")[0]
    return False

"""Working copies: what a mount is. Each is a private directory with the committed state of its moment.

Guests write here, so everything in it is hostile: the host reads it by directory descriptors only and follows no link.
Writes become visible elsewhere on commit, and commits of others become visible here on reload.
"""

import asyncio
import os
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, Removal

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Stamp = tuple[int, int, int, int, int]  # size, mtime_ns, ctime_ns, inode, mode


@dataclass(frozen=True)
class CommitResult:
    """What a commit published: its number (None when nothing had changed), files and bytes, and what was skipped."""

    number: int | None
    files_changed: int
    bytes_changed: int
    skipped: tuple[str, ...] = ()


class WorkingCopies:
    """Makes working copies below one private directory."""

    def __init__(self, root: Path, committed: CommittedVolumes, content: ContentStore) -> None:
        self._root = root
        self._committed = committed
        self._content = content
        shutil.rmtree(root, ignore_errors=True)  # what a crashed cloud left was never committed
        root.mkdir(mode=0o711, parents=True)

    async def mount(
        self, volume_id: str, *, sub_path: str = "", read_only: bool = False, owner_uid: int | None = None
    ) -> "WorkingCopy":
        """Lay the committed state below `sub_path` out as a new directory, owned by `owner_uid` when we are root."""
        directory = Path(tempfile.mkdtemp(dir=self._root))
        copy = WorkingCopy(
            directory, volume_id, sub_path, read_only, owner_uid, committed=self._committed, content=self._content
        )
        await asyncio.to_thread(copy.lay_out)
        return copy


class WorkingCopy:
    """One private directory; commit, reload and discard are serialised."""

    def __init__(
        self,
        directory: Path,
        volume_id: str,
        sub_path: str,
        read_only: bool,
        owner_uid: int | None,
        *,
        committed: CommittedVolumes,
        content: ContentStore,
    ) -> None:
        self.path = directory
        self.volume_id = volume_id
        self.sub_path = sub_path
        self.read_only = read_only
        self._owner = owner_uid if os.geteuid() == 0 else None
        self._committed = committed
        self._content = content
        self._base: dict[str, Entry] = {}
        self._stamps: dict[str, Stamp] = {}
        self._lock = asyncio.Lock()

    def lay_out(self) -> None:
        """Fill the empty directory from the committed state. Nothing else uses it yet."""
        self._base = self._committed.at(self.volume_id, self.sub_path)
        for entry in self._base.values():
            target = self.path / entry.path
            if entry.kind == "dir":
                target.mkdir(exist_ok=True, parents=True)
            elif entry.kind == "symlink":
                target.parent.mkdir(exist_ok=True, parents=True)
                target.symlink_to(entry.target)
            else:
                target.parent.mkdir(exist_ok=True, parents=True)
                self._content.copy_to(entry.sha256, target)
                target.chmod(entry.mode)
                os.utime(target, (entry.mtime, entry.mtime))
            if self._owner is not None:
                os.chown(target, self._owner, self._owner, follow_symlinks=False)
        for entry in reversed(self._base.values()):
            if entry.kind == "dir":
                (self.path / entry.path).chmod(entry.mode)
        if self._owner is not None:
            os.chown(self.path, self._owner, self._owner)
        self._stamps = {path: stamp for path, _, stamp in self._walk()[0]}

    async def commit(self, author: str) -> CommitResult:
        """Publish what changed since the mount or the last commit."""
        if self.read_only:
            return CommitResult(None, 0, 0)
        async with self._lock:
            changes, stamps, moved, skipped = await asyncio.to_thread(self._changes)
            if not changes:
                return CommitResult(None, 0, 0, skipped)
            prefix = self.sub_path + "/" if self.sub_path else ""
            published: list[Entry | Removal] = []
            for change in changes:
                if isinstance(change, Removal):
                    self._base.pop(change.path, None)
                    published.append(Removal(prefix + change.path))
                else:
                    self._base[change.path] = change
                    published.append(Entry(**{**vars(change), "path": prefix + change.path}))
            number = self._committed.publish(self.volume_id, published, author=author)
            self._stamps = stamps
            return CommitResult(number, len(changes), moved, skipped)

    async def uncommitted(self) -> tuple[int, int]:
        """Count (files, bytes) that were written but not committed."""
        async with self._lock:
            entries, _ = await asyncio.to_thread(self._walk)
        changed = [found for path, found, stamp in entries if self._stamps.get(path) != stamp and found.kind != "dir"]
        return len(changed), sum(found.size for found in changed)

    async def reload(self) -> None:
        """Make the committed state of this moment visible; uncommitted changes are lost, as on Modal."""
        async with self._lock:
            await asyncio.to_thread(self._empty)
            await asyncio.to_thread(self.lay_out)

    async def discard(self) -> None:
        """Remove the directory. Idempotent."""
        await asyncio.to_thread(_remove_tree, self.path)

    def _empty(self) -> None:
        for name in os.listdir(self.path):
            child = self.path / name
            if child.is_dir() and not child.is_symlink():
                _remove_tree(child)
            else:
                child.unlink()

    def _changes(self) -> tuple[list[Entry | Removal], dict[str, Stamp], int, tuple[str, ...]]:
        entries, skipped = self._walk()
        changes: list[Entry | Removal] = []
        stamps: dict[str, Stamp] = {}
        moved = 0
        for path, found, stamp in entries:
            stamps[path] = stamp
            before = self._base.get(path)
            if found.kind == "file" and (before is None or before.kind != "file" or self._stamps.get(path) != stamp):
                kept = self._keep(path, found)
                if kept is None:
                    stamps.pop(path)
                    continue
                if before is None or (kept.sha256, kept.mode, kept.kind) != (before.sha256, before.mode, before.kind):
                    changes.append(kept)
                    moved += kept.size
            elif before is None or (found.kind, found.mode, found.target) != (before.kind, before.mode, before.target):
                changes.append(found)
        present = {path for path, _, _ in entries}
        gone = [path for path in self._base if path not in present and path not in skipped]
        changes += [Removal(path) for path in gone]
        return changes, stamps, moved, skipped

    def _keep(self, path: str, found: Entry) -> Entry | None:
        """Store a file's bytes, reached by descriptors one name at a time; None when it vanished meanwhile."""
        *parents, name = path.split("/")
        here = os.open(self.path, _OPEN_DIR)
        try:
            for parent in parents:
                inner = os.open(parent, _OPEN_DIR, dir_fd=here)
                os.close(here)
                here = inner
            descriptor = os.open(name, _OPEN_FILE, dir_fd=here)
        except OSError:
            return None
        finally:
            os.close(here)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            sha256 = self._content.add_file(file)
        size = self._content.path(sha256).stat().st_size
        return Entry(path, "file", found.mode, size, sha256, "", found.mtime)

    def _walk(self) -> tuple[list[tuple[str, Entry, Stamp]], tuple[str, ...]]:
        """List everything in the directory without following a link; names that are not UTF-8 are skipped."""
        found: list[tuple[str, Entry, Stamp]] = []
        skipped: list[str] = []
        for directory, directories, files, descriptor in os.fwalk(self.path, follow_symlinks=False):
            prefix = os.path.relpath(directory, self.path)
            for name in sorted(directories + files):
                path = name if prefix == "." else f"{prefix}/{name}"
                try:
                    path.encode()
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    target = os.readlink(name, dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else ""
                    target.encode()
                except (UnicodeEncodeError, OSError):
                    skipped.append(path.encode(errors="replace").decode())
                    continue
                mode = stat.S_IMODE(status.st_mode) & 0o777
                stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, mode)
                if stat.S_ISLNK(status.st_mode):
                    found.append((path, Entry(path, "symlink", 0o777, 0, "", target, status.st_mtime), stamp))
                elif stat.S_ISDIR(status.st_mode):
                    found.append((path, Entry(path, "dir", mode, mtime=time.time()), stamp))
                elif stat.S_ISREG(status.st_mode):
                    found.append((path, Entry(path, "file", mode, status.st_size, mtime=status.st_mtime), stamp))
                else:
                    skipped.append(path)
        return found, tuple(skipped)


def _remove_tree(root: Path) -> None:
    """Remove a tree whose directories a guest may have made unreadable; links are removed, never followed."""
    for _ in range(3):
        shutil.rmtree(root, ignore_errors=True)
        if not root.exists():
            return
        for directory, directories, _files, descriptor in os.fwalk(root, follow_symlinks=False, onerror=None):
            del directory
            for name in directories:
                if not stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    os.chmod(name, 0o700, dir_fd=descriptor)

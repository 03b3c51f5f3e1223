"""Working copies: each mount of a volume is a private directory with the state that was committed when it was made.

Guests write into it, so everything in it is hostile: the host uses directory descriptors only and follows no link.
Writes become visible elsewhere on commit, and commits of others become visible here on reload.
"""

import asyncio
import errno
import math
import os
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from workbench.local_cloud.base.errors import exhausted, failed_precondition
from workbench.local_cloud.base.guest_directories import Skipped, open_regular, opened_dir, opened_parent, remove_tree
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.disk_reserve import lacking, require_room
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, Removal, clean, parents
from workbench.local_cloud.volumes.layout import Layout
from workbench.local_cloud.volumes.reusable_directories import ReusableDirectories, ReusableDirectory, is_plain
from workbench.local_cloud.volumes.scan import Keep, Known, Scan, ScanLimits, scan

_T = TypeVar("_T")
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # with any other error the file may exist
MayCommit = Callable[[str, str], Awaitable[bool]]  # (author, sub-path); False: acknowledge the commit, publish nothing


async def _always(author: str, sub_path: str) -> bool:
    return True


@dataclass(frozen=True)
class CommitResult:
    """What a commit published: its number (None: nothing had changed), how many files and bytes, what was skipped."""

    number: int | None
    files_changed: int
    bytes_changed: int
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Pending:
    """What a mount holds that is not committed: how many files, their bytes, and every path that differs."""

    files: int
    size: int
    paths: tuple[str, ...]


class WorkingCopies:
    """Makes working copies below one directory, which guests cannot list."""

    def __init__(
        self,
        root: Path,
        committed: CommittedVolumes,
        content: ContentStore,
        *,
        limits: ScanLimits | None = None,
        may_commit: MayCommit = _always,
    ) -> None:
        """Make `root` and remove what is in it. `may_commit` is awaited before each commit, which it can suppress."""
        self._root = root
        self._committed = committed
        self._content = content
        self._limits = limits or ScanLimits()
        self._reusable = ReusableDirectories()
        self._may_commit = may_commit
        root.mkdir(parents=True, exist_ok=True)
        # Each sandbox has a uid of its own and must pass through `root`; each holder below it admits only one of them.
        root.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self.reap()

    def reap(self) -> int:
        """Remove the directories that a crashed cloud left, and return how many. To be called before any mount."""
        leftovers = list(self._root.iterdir())
        for leftover in leftovers:
            remove_tree(leftover)
        return len(leftovers)

    async def mount(
        self,
        volume_id: str,
        *,
        sub_path: str | None = None,
        read_only: bool = False,
        owner_uid: int | None = None,
        max_stored_bytes: float = math.inf,
    ) -> "WorkingCopy":
        """Write the committed state below `sub_path` into a new directory, owned by `owner_uid` if we are root.

        A missing sub-path is created. All commits of the copy together may add `max_stored_bytes` of new contents to
        the disk. Raises CloudError: NOT_FOUND for the volume, INVALID_ARGUMENT or FAILED_PRECONDITION for the sub-path,
        RESOURCE_EXHAUSTED when the disk has no room for the copy.
        """
        below = clean(sub_path or "")
        self._create_sub_path(volume_id, below)
        owner = owner_uid if os.geteuid() == 0 else None
        spare = self._reusable.take((volume_id, below, owner))
        if spare is None:
            await asyncio.to_thread(self._require_room, volume_id, below)
        holder = spare.holder if spare is not None else Path(tempfile.mkdtemp(dir=self._root))
        copy = WorkingCopy(
            holder,
            volume_id,
            self._committed.version(volume_id),
            below,
            read_only,
            owner,
            self._limits,
            committed=self._committed,
            content=self._content,
            reusable=self._reusable,
            known=spare.known if spare is not None else {},
            may_commit=self._may_commit,
            max_stored_bytes=max_stored_bytes,
        )
        try:
            await copy.reload()
        except BaseException:
            await asyncio.shield(copy.discard())
            raise
        return copy

    def _require_room(self, volume_id: str, below: str) -> None:
        """Raise CloudError RESOURCE_EXHAUSTED when the disk has no room for a copy.

        The files' lengths are one query; what they really take on the disk, holes left out, is looked up only if the
        lengths do not fit.
        """
        if lacking(self._root, self._committed.size_below(volume_id, below)) is not None:
            files = [entry for entry in self._committed.below(volume_id, below) if entry.kind == "file"]
            require_room(self._root, sum(self._content.disk_bytes(entry.sha256) for entry in files))

    def _create_sub_path(self, volume_id: str, sub_path: str) -> None:
        with self._committed.transaction():
            self._committed.version(volume_id)
            for path in [*parents(sub_path), sub_path] if sub_path else []:
                found = self._committed.entry(volume_id, path)
                if found is not None and found.kind != "dir":
                    raise failed_precondition(
                        f"The sub-path '{sub_path}' cannot be mounted: '{path}' is not a directory."
                    )
            if self._committed.entry(volume_id, sub_path) is None:
                self._committed.publish(volume_id, [Entry(sub_path, "dir", 0o755)], author="mount:")


class WorkingCopy:
    """One mount's directory. Operations run one at a time, and to their end even if the caller is cancelled.

    `path` is the directory that the guest gets.
    """

    def __init__(
        self,
        holder: Path,
        volume_id: str,
        version: int,
        sub_path: str,
        read_only: bool,
        owner_uid: int | None,
        limits: ScanLimits,
        *,
        committed: CommittedVolumes,
        content: ContentStore,
        reusable: ReusableDirectories,
        known: dict[str, Known],
        may_commit: MayCommit,
        max_stored_bytes: float,
    ) -> None:
        """Prepare the directory `holder`, which belongs to this copy from now on; `reload` must follow.

        `known` is what it holds already: nothing, unless it is a reused directory.
        """
        self._stored = 0  # disk bytes of new contents in its commits
        self._max_stored = max_stored_bytes
        self.path = holder / "tree"
        self.volume_id = volume_id
        self.version = version
        self.sub_path = sub_path
        self.read_only = read_only
        self._holder = holder
        self._owner = owner_uid
        self._limits = limits
        self._committed = committed
        self._content = content
        self._reusable = reusable
        self._known = known
        self._may_commit = may_commit
        self._head = 0
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[object]] = set()
        self._laid_out = False
        self._discarded = False
        self._given_away = False  # its directory belongs to `reusable` now
        scratch = holder / "scratch"
        for directory in (self.path, scratch):
            directory.mkdir(mode=0o700, exist_ok=True)
            directory.chmod(0o700)
        if owner_uid is not None:
            os.chown(self.path, owner_uid, owner_uid)
            os.chown(holder, 0, owner_uid)  # only the owner's group may enter, whatever mode the guest gives `path`
            holder.chmod(0o710)
        self._layout = Layout(self.path, scratch, owner_uid, content)

    async def commit(self, author: str) -> CommitResult:
        """Publish what changed since the mount or the last commit; nothing for a read-only mount.

        `author` is `kind:id`. Raises CloudError: NOT_FOUND when the volume was deleted, RESOURCE_EXHAUSTED beyond the
        limits of a mount or when the disk is nearly full, FAILED_PRECONDITION when this mount has ended.
        """
        if self.read_only or not await self._may_commit(author, self.sub_path):
            return CommitResult(None, 0, 0)
        return await self._run(lambda: self._commit(author))

    async def uncommitted(self) -> Pending:
        """Return what was written or removed but not committed; raises CloudError FAILED_PRECONDITION after its end."""
        found = await self._run(self._scan)
        return Pending(found.files_changed, found.bytes_changed, tuple(change.path for change in found.changes))

    async def read(self, path: str, *, max_bytes: int) -> bytes | None:
        """Return the first `max_bytes` bytes of a regular file as the guest sees it; no link is followed.

        None when the path does not exist or is no regular file. Raises OSError when it cannot be read.
        """
        return await self._run(lambda: self._read(path, max_bytes))

    async def reload(self) -> None:
        """Make the newest committed state visible.

        Files with uncommitted changes are neither changed nor published; everything else becomes as it was committed.
        """
        await self._run(self._reload)

    async def release(self) -> None:
        """Like `discard`, but keep the directory for reuse if possible. Only for a copy whose guest has ended."""
        await self._run(self._release)

    async def discard(self) -> None:
        """Remove the directory; later operations raise CloudError. Idempotent."""
        await self._run(self._discard)

    async def _run(self, work: Callable[[], _T]) -> _T:
        async def alone() -> _T:
            async with self._lock:
                return await asyncio.to_thread(work)

        task = asyncio.ensure_future(alone())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    def _scan(self, keep: Keep | None = None) -> Scan:
        self._refuse_discarded()
        with opened_dir(self.path) as root:
            return scan(root, self._known, keep=keep, limits=self._limits)

    def _scan_and_keep(self) -> Scan:
        """Scan, and keep the contents of changed files, all of them or none."""
        stored = self._stored
        try:
            with self._content.batch() as batch:

                def keep(file: BinaryIO, max_bytes: int) -> tuple[str, int]:
                    added = batch.add_file(file, max_bytes=max_bytes, spend=self._spend)
                    return added.sha256, added.size

                return self._scan(keep)
        except BaseException:
            self._stored = stored
            raise

    def _spend(self, size: int) -> None:
        if self._stored + size > self._max_stored:
            raise exhausted(
                f"This mount has committed {self._stored // 2**20} MiB of new contents, and another "
                f"{-(-size // 2**20)} MiB would exceed its limit of {self._max_stored // 2**20} MiB: commit less "
                "often, or change fewer files."
            )
        self._stored += size

    def _read(self, path: str, max_bytes: int) -> bytes | None:
        self._refuse_discarded()
        try:
            with opened_dir(self.path) as root, opened_parent(root, path) as (directory, name):
                descriptor = open_regular(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return None
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read(max_bytes)

    def _commit(self, author: str) -> CommitResult:
        found = self._scan_and_keep()
        number = None
        if found.changes:
            prefix = self.sub_path + "/" if self.sub_path else ""
            published = [_moved(change, prefix) for change in found.changes]
            number = self._committed.publish(self.volume_id, published, author=author, parent=self._head)
            self._head = number
        self._known = found.known
        return CommitResult(number, found.files_changed, found.bytes_changed, found.skipped)

    def _reload(self) -> None:
        local = {change.path for change in self._scan().changes} if self._laid_out else set()
        with self._committed.transaction():
            head = self._committed.head(self.volume_id)
            target = self._committed.at(self.volume_id, self.sub_path)
        self._known = self._layout.apply(self._known, target, keep=local, live=self._laid_out)
        self._laid_out = True
        self._head = head

    def _release(self) -> None:
        if self._discarded:
            return
        found = self._scan()
        if found.changes or found.skipped or not is_plain(self.path):
            self._discard()
            return
        self._discarded = self._given_away = True
        self._reusable.keep((self.volume_id, self.sub_path, self._owner), ReusableDirectory(self._holder, found.known))

    def _discard(self) -> None:
        if not self._given_away:
            self._discarded = True
            self._known = {}
            remove_tree(self._holder)

    def _refuse_discarded(self) -> None:
        if self._discarded:
            raise failed_precondition("This mount of the volume has ended, with the sandbox or container that had it.")


def _moved(change: Entry | Removal, prefix: str) -> Entry | Removal:
    if isinstance(change, Removal):
        return Removal(prefix + change.path)
    path = prefix + change.path
    return Entry(path, change.kind, change.mode, change.size, change.sha256, change.target, change.mtime)

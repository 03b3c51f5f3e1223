"""Working copies: each mount of a volume is a private directory with the state that was committed when it was made.

Guests write into it, so everything in it is hostile: the host uses directory descriptors only and follows no link.
Writes become visible elsewhere on commit, and commits of others become visible here on reload. How the directory is
made is the matter of `overlay_tree`, and of `copied_tree` where the kernel has no overlay for us.
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
from workbench.local_cloud.volumes import overlay_mounts, overlay_tree
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, Removal, clean, parents
from workbench.local_cloud.volumes.copied_tree import CopiedTree
from workbench.local_cloud.volumes.layers import Layers
from workbench.local_cloud.volumes.mounted_tree import BelowWritten, MountedTree, SeenAt
from workbench.local_cloud.volumes.overlay_tree import OverlayTree
from workbench.local_cloud.volumes.reusable_directories import ReusableDirectories
from workbench.local_cloud.volumes.scan import Keep, Scan, ScanLimits
from workbench.local_cloud.volumes.stacks import Place

_T = TypeVar("_T")
_SMALL_ENTRIES, _SMALL_BYTES = 2_000, 64 * 1024**2  # see `copies_small`
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
        overlay: bool = False,
        copies_small: bool = False,
        layers: Path | None = None,
    ) -> None:
        """Make `root` and remove what is in it. `may_commit` is awaited before each commit, which it can suppress.

        With `overlay`, mounts are overlays: only for a process with private mounts, and where
        `overlay_mounts.why_unusable` finds nothing. Their layers are in the directory `layers`, by default one beside
        `root`, and serve the next cloud, too. With `copies_small`, a small directory is copied all the same.
        """
        self._root = root
        self._committed = committed
        self._content = content
        self._limits = limits or ScanLimits()
        self._may_commit = may_commit
        root.mkdir(parents=True, exist_ok=True)
        # Each sandbox has a uid of its own and must pass through `root`; each holder below it admits only one of them.
        root.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self.reap()
        self._reusable = ReusableDirectories()
        self._layers: Layers | None = None
        if overlay:
            self._layers = Layers(layers or root.with_name(f"{root.name}-layers"), committed, content)
        self._copies_small = copies_small

    def close(self) -> None:
        """Remove the mounts that are left, and wait for work in the background. Idempotent."""
        self.reap()
        if self._layers is not None:
            self._layers.close()

    def reap(self) -> int:
        """Remove the directories that a crashed cloud left, and return how many. To be called before any mount."""
        leftovers = list(self._root.iterdir())
        for leftover in leftovers:
            for name in overlay_tree.MOUNT_POINTS:
                overlay_mounts.unmount(leftover / name)
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
        holds_mounts: bool = False,
    ) -> "WorkingCopy":
        """Make a new directory with the committed state below `sub_path`, owned by `owner_uid` if we are root.

        A missing sub-path is created. All commits of the copy together may add `max_stored_bytes` of new contents to
        the disk. `holds_mounts` says that others will be mounted inside of it: the kernel could not exchange it on a
        reload then, so it is no overlay. Raises CloudError: NOT_FOUND for the volume, INVALID_ARGUMENT or
        FAILED_PRECONDITION for the sub-path, RESOURCE_EXHAUSTED when the disk has no room for the copy.
        """
        below = clean(sub_path or "")
        self._create_sub_path(volume_id, below)
        place = Place(volume_id, below, owner_uid if os.geteuid() == 0 else None)
        tree = await asyncio.to_thread(self._tree, place, holds_mounts)
        copy = WorkingCopy(
            tree,
            place,
            self._committed.version(volume_id),
            read_only,
            committed=self._committed,
            content=self._content,
            may_commit=self._may_commit,
            max_stored_bytes=max_stored_bytes,
        )
        try:
            await copy.reload()
        except BaseException:
            await asyncio.shield(copy.discard())
            raise
        return copy

    def _tree(self, place: Place, holds_mounts: bool) -> MountedTree:
        """Make the directory of a mount, still without its files."""
        if self._layers is not None and not holds_mounts and not (self._copies_small and self._is_small(place)):
            return OverlayTree(
                self._holder(place), place, self._committed, self._content, self._layers, limits=self._limits
            )
        spare = self._reusable.take(place)
        if spare is None:
            self._require_room(place)
        return CopiedTree(
            spare.holder if spare is not None else self._holder(place),
            place,
            self._committed,
            self._content,
            self._reusable,
            known=spare.known if spare is not None else {},
            limits=self._limits,
        )

    def _is_small(self, place: Place) -> bool:
        """Whether copying the files of a place takes a moment only."""
        entries, size = self._committed.extent_below(place.volume_id, place.sub_path, at_most=_SMALL_ENTRIES + 1)
        return entries <= _SMALL_ENTRIES and size <= _SMALL_BYTES

    def _holder(self, place: Place) -> Path:
        """Make a directory that only the owner of the mount in it may pass, whatever mode the guest gives its tree."""
        holder = Path(tempfile.mkdtemp(dir=self._root))
        if place.owner_uid is not None:
            os.chown(holder, 0, place.owner_uid)
            holder.chmod(0o710)
        return holder

    def _require_room(self, place: Place) -> None:
        """Raise CloudError RESOURCE_EXHAUSTED when the disk has no room for a copy.

        The files' lengths are one query; what they really take on the disk, holes left out, is looked up only if the
        lengths do not fit.
        """
        if lacking(self._root, self._committed.size_below(place.volume_id, place.sub_path)) is not None:
            below = self._committed.below(place.volume_id, place.sub_path)
            files = [entry for entry in below if entry.kind == "file"]
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
        tree: MountedTree,
        place: Place,
        version: int,
        read_only: bool,
        *,
        committed: CommittedVolumes,
        content: ContentStore,
        may_commit: MayCommit,
        max_stored_bytes: float,
    ) -> None:
        """Take a directory, which belongs to this copy from now on; `reload` must follow."""
        self._stored = 0  # disk bytes of new contents in its commits
        self._max_stored = max_stored_bytes
        self.path = tree.path
        self.volume_id = place.volume_id
        self.version = version
        self.sub_path = place.sub_path
        self.read_only = read_only
        self._tree = tree
        self._committed = committed
        self._content = content
        self._may_commit = may_commit
        self._head = 0
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[object]] = set()
        self._ended = self._discarded = False

    @property
    def layers(self) -> BelowWritten | None:
        """What the mount shows of committed layers, for who watches its size; None when it is no overlay."""
        return self._tree.layers

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

    async def reload(self, seen_at: SeenAt | None = None) -> None:
        """Make the newest committed state visible, also where a container that runs sees this mount.

        Files with uncommitted changes are neither changed nor published; everything else becomes as it was committed.
        Raises CloudError FAILED_PRECONDITION when a file of the mount is open there, and may not be.
        """
        await self._run(lambda: self._reload(seen_at))

    async def give_up(self) -> None:
        """Keep the directory for reuse if possible; `discard` must follow. Only for a copy whose guest has ended.

        The next mount finds what is kept from here on. Later operations raise CloudError. Idempotent.
        """
        await self._run(self._give_up)

    async def release(self) -> None:
        """Like `discard`, but keep the directory for reuse if possible. Only for a copy whose guest has ended."""
        await self.give_up()
        await self.discard()

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
        return self._tree.scan(keep)

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
        self._tree.committed(found, number)
        return CommitResult(number, found.files_changed, found.bytes_changed, found.skipped)

    def _reload(self, seen_at: SeenAt | None) -> None:
        self._refuse_discarded()
        self._head = self._tree.show_newest(seen_at)

    def _give_up(self) -> None:
        if not self._ended:
            self._tree.give_up()
            self._ended = True

    def _discard(self) -> None:
        if not self._discarded:
            self._tree.remove()
            self._ended = self._discarded = True

    def _refuse_discarded(self) -> None:
        if self._ended:
            raise failed_precondition("This mount of the volume has ended, with the sandbox or container that had it.")


def _moved(change: Entry | Removal, prefix: str) -> Entry | Removal:
    if isinstance(change, Removal):
        return Removal(prefix + change.path)
    path = prefix + change.path
    return Entry(path, change.kind, change.mode, change.size, change.sha256, change.target, change.mtime)

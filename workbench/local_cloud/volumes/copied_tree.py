"""A mount's directory with a copy of every committed file: where the kernel cannot mount an overlay for the cloud."""

import os
from pathlib import Path

from workbench.local_cloud.base.guest_directories import opened_dir, remove_tree
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.volumes.committed import CommittedVolumes
from workbench.local_cloud.volumes.layout import Layout
from workbench.local_cloud.volumes.mounted_tree import BelowWritten, SeenAt
from workbench.local_cloud.volumes.reusable_directories import ReusableDirectories, ReusableDirectory, is_plain
from workbench.local_cloud.volumes.scan import Keep, Known, Scan, ScanLimits, scan
from workbench.local_cloud.volumes.stacks import Place


class CopiedTree:
    """See `MountedTree`."""

    def __init__(
        self,
        holder: Path,
        place: Place,
        committed: CommittedVolumes,
        content: ContentStore,
        reusable: ReusableDirectories,
        *,
        known: dict[str, Known],
        limits: ScanLimits,
    ) -> None:
        """Prepare the directory `holder`, which belongs to this tree from now on; `show_newest` must follow.

        `known` is what it holds already: nothing, unless it is a reused directory.
        """
        self.path = holder / "tree"
        self._holder = holder
        self._place = place
        self._committed = committed
        self._reusable = reusable
        self._known = known
        self._limits = limits
        self._laid_out = self._is_kept = False
        scratch = holder / "scratch"
        for directory in (self.path, scratch):
            directory.mkdir(mode=0o700, exist_ok=True)
            directory.chmod(0o700)
        if place.owner_uid is not None:
            os.chown(self.path, place.owner_uid, place.owner_uid)
        self._layout = Layout(self.path, scratch, place.owner_uid, content)

    @property
    def layers(self) -> BelowWritten | None:
        """See `MountedTree`."""
        return None

    def scan(self, keep: Keep | None) -> Scan:
        """See `MountedTree`."""
        with opened_dir(self.path) as root:
            return scan(root, self._known, keep=keep, limits=self._limits)

    def committed(self, found: Scan, number: int | None) -> None:
        """See `MountedTree`."""
        self._known = found.known

    def show_newest(self, seen_at: SeenAt | None) -> int:
        """See `MountedTree`. Files are replaced where they are, so an open one prevents nothing."""
        local = {change.path for change in self.scan(None).changes} if self._laid_out else set()
        with self._committed.transaction():
            head = self._committed.head(self._place.volume_id)
            target = self._committed.at(self._place.volume_id, self._place.sub_path)
        self._known = self._layout.apply(self._known, target, keep=local, live=self._laid_out)
        self._laid_out = True
        return head

    def give_up(self) -> None:
        """See `MountedTree`."""
        found = self.scan(None)
        if not found.changes and not found.skipped and is_plain(self.path):
            self._reusable.keep(self._place, ReusableDirectory(self._holder, found.known))
            self._is_kept = True

    def remove(self) -> None:
        """See `MountedTree`."""
        if not self._is_kept:
            remove_tree(self._holder)

"""A mount's directory as an overlay: the committed layers of its place, below a private directory for what is written.

Making one costs the same for any number of files, and a commit or an end as much as was written.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from workbench.local_cloud.base.guest_directories import Found, opened_dir, remove_tree
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.volumes import local_changes, overlay_mounts
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, Removal, parents
from workbench.local_cloud.volumes.layers import Layers, is_plain_entry
from workbench.local_cloud.volumes.layout import Layout
from workbench.local_cloud.volumes.mounted_tree import BelowWritten, SeenAt
from workbench.local_cloud.volumes.scan import Keep, Known, Scan, ScanLimits
from workbench.local_cloud.volumes.stacks import Place, Stack
from workbench.local_cloud.volumes.upper_scan import Changed, scan_upper

_TREE, _NEXT = "tree", "next"
MOUNT_POINTS = (_TREE, _NEXT)  # in the directory of a mount; what a killed process has left there is unmounted first


class OverlayTree:
    """See `MountedTree`."""

    def __init__(
        self,
        holder: Path,
        place: Place,
        committed: CommittedVolumes,
        content: ContentStore,
        layers: Layers,
        *,
        limits: ScanLimits,
    ) -> None:
        """Prepare the directory `holder`, which belongs to this tree from now on; `show_newest` must follow."""
        self.path = holder / _TREE
        self._holder = holder
        self._private = holder / "private"  # nobody but the cloud may enter it
        self._place = place
        self._committed = committed
        self._content = content
        self._all_layers = layers
        self._limits = limits
        self._stack: Stack | None = None
        self._known: Changed = {}
        self._total = self._size = 0  # entries that the mount shows, and their bytes, when it was last in step
        self._pending: tuple[Scan, Changed] | None = None
        self._commits: set[int] = set()
        self._generation = 0  # of the directory with what was written: a reload makes a new one
        self.path.mkdir(mode=0o700)
        self._private.mkdir(mode=0o700)

    @property
    def layers(self) -> BelowWritten | None:
        """See `MountedTree`."""
        stack = self._stack
        return None if stack is None else BelowWritten(self._upper, stack.entries, stack.size)

    def scan(self, keep: Keep | None) -> Scan:
        """See `MountedTree`."""
        found, known = self._scan(keep)
        self._pending = (found, known)
        return found

    def committed(self, found: Scan, number: int | None) -> None:
        """See `MountedTree`."""
        assert self._pending is not None
        assert self._pending[0] is found
        _, self._known = self._pending
        self._total += found.entries_added
        self._size += found.size_added
        if number is not None:
            self._commits.add(number)

    def show_newest(self, seen_at: SeenAt | None) -> int:
        """See `MountedTree`. Where it is seen, the new mount takes the place of the old one in one step."""
        volume_id = self._place.volume_id
        head = self._committed.head(volume_id)
        if self._stack is not None:
            changed = self._committed.changed_since(volume_id, self._stack.head, below=self._place.sub_path)
            if set(changed.values()) <= self._commits:
                return head
        stack = self._all_layers.take(self._place)
        try:
            if self._stack is None:
                self._new_upper(self._generation)
                self._mount(stack, self._generation, _TREE)
                known: dict[str, Known | None] = {}
            else:
                known = self._remount(stack, seen_at)
        except BaseException:
            self._all_layers.give_back(stack)
            raise
        if self._stack is not None:
            self._all_layers.give_back(self._stack)
        view = self._all_layers.view(stack)
        self._total, self._size = stack.entries, stack.size
        for path, old in known.items():
            new = view.entry(path)
            self._total += (old is not None) - (new is not None)
            self._size += (0 if old is None else old.entry.size) - (0 if new is None else new.size)
        self._stack, self._known, self._commits = stack, known, set()
        return max(head, stack.head)

    def give_up(self) -> None:
        """See `MountedTree`."""
        found, _ = self._scan(None)
        overlay_mounts.unmount(self.path)
        if self._commits and not found.changes and not found.skipped:
            assert self._stack is not None
            commits = self._commits
            self._all_layers.adopt(self._stack, self._upper, commits, entries=self._total, size=self._size)

    def remove(self) -> None:
        """See `MountedTree`."""
        overlay_mounts.unmount(self.path)
        remove_tree(self._holder)
        if self._stack is not None:
            self._all_layers.give_back(self._stack)
            self._stack = None

    @property
    def _upper(self) -> Path:
        return self._of(self._generation) / "upper"

    def _of(self, generation: int) -> Path:
        return self._private / str(generation)

    def _scan(self, keep: Keep | None) -> tuple[Scan, Changed]:
        assert self._stack is not None
        with opened_dir(self._upper) as root:
            view = self._all_layers.view(self._stack)
            return scan_upper(root, view, self._known, total=self._total, keep=keep, limits=self._limits)

    def _new_upper(self, generation: int) -> Path:
        """Make an upper directory, whose owner and mode are those of the mount, and a work directory beside it."""
        made = self._of(generation) / "upper"
        made.mkdir(mode=0o700, parents=True)
        (made.parent / "work").mkdir(mode=0o700)  # with each upper directory: a used one cannot be mounted again
        if self._place.owner_uid is not None:
            os.chown(made, self._place.owner_uid, self._place.owner_uid)
        return made

    def _mount(self, stack: Stack, generation: int, target: str) -> None:
        own = f"{self._holder.parent.name}/{self._holder.name}"
        overlay_mounts.mount(
            self._holder.parents[1],
            self._all_layers.names(stack),
            f"{own}/{self._private.name}/{generation}/upper",
            f"{own}/{self._private.name}/{generation}/work",
            f"{own}/{target}",
            lowers_at=self._all_layers.root,
        )

    def _remount(self, stack: Stack, seen_at: SeenAt | None) -> dict[str, Known | None]:
        """Replace the layers, with an upper directory that has the local changes only; returns what those replace."""
        new = self._generation + 1
        beside = self._holder / _NEXT
        beside.mkdir(mode=0o700, exist_ok=True)
        try:
            found, known = self._scan(None)
            upper = self._new_upper(new)
            upper.chmod(stat.S_IMODE(self._upper.stat().st_mode))
            unusual = self._carry_over(found, upper, stack)
            self._mount(stack, new, _NEXT)
            if seen_at is not None:
                overlay_mounts.replace_inside(seen_at.pid, seen_at.path, beside, read_only=seen_at.read_only)
        except BaseException:
            overlay_mounts.unmount(beside)
            remove_tree(self._of(new))
            raise
        overlay_mounts.unmount(self.path)
        overlay_mounts.move(beside, self.path)
        self._bring_late_changes(known)
        replaced = {change.path: self._before(change.path) for change in found.changes}
        remove_tree(self._of(self._generation))
        self._generation = new
        return {**{path: Known(found.known[path].entry, None) for path in unusual}, **replaced}

    def _bring_late_changes(self, known: Changed) -> None:
        """Repeat in the new mount what was written into the old one after it was scanned, until nobody saw it any more.

        `known` is the result of that scan.
        """
        assert self._stack is not None
        view = self._all_layers.view(self._stack)
        with opened_dir(self._upper) as old, opened_dir(self.path) as shown:
            late, _ = scan_upper(old, view, known, total=0, keep=None, limits=self._limits)
            local_changes.repeat(late.changes, old, shown)

    def _before(self, path: str) -> Known | None:
        """Return what a path was when the mount was last in step."""
        assert self._stack is not None
        if path in self._known:
            return self._known[path]
        entry = self._all_layers.view(self._stack).entry(path)
        return None if entry is None else Known(entry, None)

    def _carry_over(self, found: Scan, upper: Path, stack: Stack) -> list[str]:
        """Put what is not committed into a new upper directory: files as they are, removals as whiteouts.

        Returns the committed files that are put there, too: they have what no commit describes, such as a second link.
        """
        local = {change.path for change in found.changes}
        view = self._all_layers.view(stack)
        unusual: list[str] = []

        def is_needed(item: Found) -> bool:
            known = found.known.get(item.path)
            if known is None or item.path in local:
                return True
            if known.entry.kind != "file" or is_plain_entry(item, self._place.owner_uid):
                return False
            now = view.entry(item.path)
            if now is None or not now.same_as(known.entry):
                return False  # somebody else has changed it
            unusual.append(item.path)
            return True

        with opened_dir(self._upper) as old, opened_dir(upper) as new:
            local_changes.link_tree(old, new, is_needed)
            moved = {c.path: c for c in found.changes if isinstance(c, Entry) and not local_changes.exists(new, c.path)}
            removed = local_changes.topmost({c.path for c in found.changes if isinstance(c, Removal)}, view)
            above = {a for path in (*moved, *removed) for a in parents(path)} - moved.keys()
            for path in above:
                entry = view.entry(path)
                if entry is not None and entry.kind == "dir" and not local_changes.exists(new, path):
                    moved[path] = entry
            scratch = self._private / "scratch"
            scratch.mkdir(mode=0o700, exist_ok=True)
            Layout(upper, scratch, self._place.owner_uid, self._content).apply({}, moved, keep=frozenset(), live=True)
            for path in removed:
                with suppress(FileNotFoundError, NotADirectoryError, FileExistsError):  # something local is in its way
                    local_changes.hide(new, path)
        return unusual

"""Layers: immutable directories with committed files, laid out once and shared by every mount of their place.

A place is a volume's sub-path and the owner of the files there. Its stack has a directory with all files at the bottom,
and above it one for each later state, with what differs and a whiteout for each removed entry: the kernel's overlay
shows them as one. A layer is made from the store, or it is the upper directory of an ended mount, if that holds nothing
but what the mount has committed. No layer changes once a mount may use it.
"""

import os
import stat
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from workbench.local_cloud.base.guest_directories import Found, Skipped, opened_dir, opened_parent, remove_tree, walk
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.disk_reserve import require_room
from workbench.local_cloud.volumes import overlay_mounts
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, parents
from workbench.local_cloud.volumes.kept_stacks import KeptStacks
from workbench.local_cloud.volumes.layout import Layout
from workbench.local_cloud.volumes.stacks import TREE, Layer, Place, Stack

_log = structlog.get_logger(__name__)

_MAX_LAYERS = 20  # a deeper stack is flattened: each layer costs every mount, and every look at a missing name
_MAX_PLACES = 16  # whose stacks are kept while nothing is mounted there
_MAX_BYTES = 4 * 1024**3  # of the files of all these places together
_UNRECORDED = 500  # so many entries are made anew in a moment, if the cloud is killed


class View:
    """What one stack shows, read from the history of its volume. Paths are relative to the place."""

    def __init__(self, committed: CommittedVolumes, place: Place, head: int) -> None:
        self._committed = committed
        self._place = place
        self._head = head
        self._prefix = place.sub_path + "/" if place.sub_path else ""

    def entry(self, path: str) -> Entry | None:
        """Return an entry, None when there is none."""
        found = self._committed.at_commit(self._place.volume_id, self._head, self._prefix + path)
        return None if found is None else replace(found, path=path)

    def below(self, path: str) -> list[Entry]:
        """Return every entry below a directory, or below the root for "", in order of paths."""
        top = self._prefix + path if path else self._place.sub_path
        found = self._committed.as_of(self._place.volume_id, self._head, below=top)
        skip = len(self._prefix)
        return [replace(entry, path=entry.path[skip:]) for entry in found if entry.path != top]


class Layers:
    """Makes and keeps the stacks of one cloud in one directory. May be called from any thread, and blocks."""

    def __init__(self, root: Path, committed: CommittedVolumes, content: ContentStore) -> None:
        """Make `root`, and go on with the stacks in it that still are what they were; others are removed."""
        self._root = root
        self._committed = committed
        self._content = content
        self._lock = threading.Lock()
        self._stacks: OrderedDict[Place, Stack] = OrderedDict()
        self._making: dict[Place, threading.Lock] = {}
        self._users: Counter[int] = Counter()
        self._kept: set[int] = set()  # layers that a stack has, or had
        self._later = ThreadPoolExecutor(1, thread_name_prefix="layers")
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)
        remove_tree(root / "0")
        (root / "0" / TREE).mkdir(parents=True)  # of a place without files: an overlay needs a lower layer
        self._records = KeptStacks(root, committed)
        self._unproved: set[Place] = set()  # whose stacks are an earlier cloud's, and not yet looked at
        for stack in self._records.load():
            self._keep(stack)
            self._unproved.add(stack.place)
        self._kept.update(int(path.name) for path in root.iterdir() if path.name.isdecimal() and path.name != "0")
        self._last = max(self._kept, default=0)
        self._tidy()

    def close(self) -> None:
        """Wait for work in the background, and record the stacks for the next cloud. Idempotent."""
        self._later.shutdown(cancel_futures=True)
        with self._lock:
            stacks = [stack for place, stack in self._stacks.items() if stack.entries and place not in self._unproved]
        for stack in stacks:
            try:
                self._records.keep(stack)
            except (OSError, ValueError) as error:  # ValueError: the volume was deleted
                _log.info("layers.not_recorded", why=str(error))

    @property
    def root(self) -> Path:
        """The directory of the layers."""
        return self._root

    def names(self, stack: Stack) -> list[str]:
        """Return the layers' directories relative to the layers' root, top first."""
        return [f"{layer.number}/{TREE}" for layer in reversed(stack.layers)]

    def view(self, stack: Stack) -> View:
        """Return what a stack shows."""
        return View(self._committed, stack.place, stack.head)

    def take(self, place: Place) -> Stack:
        """Return the stack with the newest committed state of a place; its layers stay until `give_back`.

        Raises CloudError RESOURCE_EXHAUSTED when the disk has no room, and OSError.
        """
        with self._lock:
            making = self._making.setdefault(place, threading.Lock())
        with making:
            self._prove(place)
            with self._lock:
                before = self._stacks.get(place)
                self._use(before)  # the new stack may have these layers: nobody may remove them meanwhile
            try:
                stack = self._newest(place, before)
                with self._lock:
                    self._keep(stack)
                    self._use(stack)
            finally:
                self.give_back(before)
        self._flatten_later(place)
        self._record_later(stack)
        return stack

    def give_back(self, stack: Stack | None) -> None:
        """Say that a mount of the stack has ended."""
        with self._lock:
            self._users.subtract(_numbers(stack))
        self._tidy()

    def adopt(self, stack: Stack, upper: Path, commits: set[int], *, entries: int, size: int) -> bool:
        """Make the upper directory of an ended mount the next layer of its stack; returns whether that was possible.

        `commits` are all that the mount has published; with them, the place has `entries` entries and `size` bytes. It
        is not possible when others have changed the place meanwhile, or when the directory holds anything that no
        commit describes. Nobody may use the directory any more.
        """
        place = stack.place
        head = self._committed.head(place.volume_id)
        changed = self._committed.changed_since(place.volume_id, stack.head, below=place.sub_path)
        if not set(changed.values()) <= commits or not _is_plain(upper, place.owner_uid):
            return False
        number = self._number()
        with self._lock:
            now = self._stacks.get(place)
            if now is None or now.head != stack.head:
                return False
            (self._root / str(number)).mkdir(mode=0o700)
            upper.rename(self._root / str(number) / TREE)
            adopted = Stack(place, (*now.layers, Layer(number, head)), entries, size)
            self._keep(adopted)
        self._flatten_later(place)
        self._record_later(adopted)
        return True

    def _prove(self, place: Place) -> None:
        """Forget the stack that an earlier cloud has left for a place, unless nothing of it has changed since."""
        with self._lock:
            stack = self._stacks.get(place) if place in self._unproved else None
        if stack is None:
            return
        is_same = self._records.is_unchanged(stack)
        with self._lock:
            self._unproved.discard(place)
            if not is_same:
                self._stacks.pop(place, None)
        if not is_same:
            _log.warning("layers.changed", volume=place.volume_id, sub_path=place.sub_path)
            self._tidy()

    def _record_later(self, stack: Stack) -> None:
        """Record a stack for the next cloud, if it has much that an earlier record has not; the rest is for `close`."""
        if self._records.lacks(stack) > _UNRECORDED:
            self._in_background(partial(self._records.keep, stack))

    def _newest(self, place: Place, stack: Stack | None) -> Stack:
        head = self._committed.head(place.volume_id)
        if stack is None:
            require_room(self._root)
            return self._bottom(place, head)
        changed = self._committed.changed_since(place.volume_id, stack.head, below=place.sub_path)
        if not changed:
            return stack
        if len(changed) > max(1000, stack.entries):
            return self._bottom(place, head)
        before, after = View(self._committed, place, stack.head), View(self._committed, place, head)
        layer = self._difference(place, [_relative(path, place) for path in changed], before, after, head)
        total = after.below("")
        return Stack(place, (*stack.layers, layer), len(total), sum(entry.size for entry in total))

    def _bottom(self, place: Place, head: int) -> Stack:
        entries = View(self._committed, place, head).below("")
        size = sum(entry.size for entry in entries)
        if not entries:
            return Stack(place, (Layer(0, head),), 0, 0)
        return Stack(place, (self._make(place, {e.path: e for e in entries}, (), head),), len(entries), size)

    def _difference(self, place: Place, paths: Iterable[str], before: View, after: View, head: int) -> Layer:
        """Make the layer that leads from one state to another, which differ in `paths` at most."""
        put: dict[str, Entry] = {}
        gone: set[str] = set()  # a set, since a commit may remove tens of thousands of files
        for path in sorted(paths):
            entry = after.entry(path)
            if entry is not None:
                put[path] = entry
            elif before.entry(path) is not None and gone.isdisjoint(parents(path)):
                gone.add(path)
        removed = [path for path in sorted(gone) if all(a not in put or put[a].kind == "dir" for a in parents(path))]
        for path in (*put, *removed):  # a directory of a layer has the attributes that count
            for above in parents(path):
                if above not in put and (entry := after.entry(above)) is not None:
                    put[above] = entry
        removed = [path for path in removed if all(above in put for above in parents(path))]
        return self._make(place, put, removed, head)

    def _make(self, place: Place, entries: dict[str, Entry], removed: Iterable[str], head: int) -> Layer:
        files = [entry for entry in entries.values() if entry.kind == "file"]
        require_room(self._root, sum(self._content.disk_bytes(entry.sha256) for entry in files))
        number = self._number()
        holder = self._root / str(number)
        try:
            for name in (TREE, "scratch"):
                (holder / name).mkdir(mode=0o700, parents=True)
            layout = Layout(holder / TREE, holder / "scratch", place.owner_uid, self._content)
            layout.apply({}, entries, keep=frozenset(), live=False)
            with opened_dir(holder / TREE) as root:
                for path in removed:
                    with opened_parent(root, path) as (directory, name):
                        overlay_mounts.whiteout(name, dir_fd=directory)
        except BaseException:
            remove_tree(holder)
            raise
        return Layer(number, head)

    def _number(self) -> int:
        with self._lock:
            self._last += 1
            return self._last

    def _use(self, stack: Stack | None) -> None:
        """Keep the layers of a stack until `give_back`. For a caller that has the lock."""
        self._users.update(_numbers(stack))

    def _keep(self, stack: Stack) -> None:
        """Make a stack that of its place. For a caller that has the lock."""
        self._stacks[stack.place] = stack
        self._stacks.move_to_end(stack.place)
        self._kept.update(_numbers(stack))

    def _tidy(self) -> None:
        """Forget the stacks that are too many, and remove the layers that no stack and no mount has."""
        with self._lock:
            while len(self._stacks) > 1 and (
                len(self._stacks) > _MAX_PLACES or sum(stack.size for stack in self._stacks.values()) > _MAX_BYTES
            ):
                self._stacks.popitem(last=False)
            self._unproved &= self._stacks.keys()
            self._users = +self._users
            needed = {number for stack in self._stacks.values() for number in _numbers(stack)} | self._users.keys()
            gone = self._kept - needed
            self._kept -= gone
            self._records.forget(gone)
        for number in gone:
            self._in_background(partial(remove_tree, self._root / str(number)))

    def _flatten_later(self, place: Place) -> None:
        with self._lock:
            stack = self._stacks.get(place)
        if stack is not None and len(stack.layers) > _MAX_LAYERS:
            self._in_background(partial(self._flatten, stack))

    def _flatten(self, stack: Stack) -> None:
        """Replace the layers of a stack by its lowest and one other, or by one if they would differ in much.

        Mounts keep the layers that they have. Layers that were added meanwhile stay on top.
        """
        place, bottom = stack.place, stack.layers[0]
        before, after = View(self._committed, place, bottom.head), View(self._committed, place, stack.head)
        changed = self._committed.changed_since(place.volume_id, bottom.head, below=place.sub_path)
        if 2 * len(changed) > stack.entries:
            layers = self._bottom(place, stack.head).layers
        else:
            paths = [_relative(path, place) for path in changed]
            layers = (bottom, self._difference(place, paths, before, after, stack.head))
        with self._lock:
            now = self._stacks.get(place)
            if now is not None and now.layers[: len(stack.layers)] == stack.layers:
                self._keep(replace(now, layers=(*layers, *now.layers[len(stack.layers) :])))
            else:
                self._kept.update(_numbers(replace(stack, layers=layers)))  # for `_tidy` to remove
        self._tidy()

    def _in_background(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001  # nobody waits for it; the next mount works without it
                _log.warning("layers.background_failed", exc_info=error)

        with suppress(RuntimeError):  # the cloud ends, and with it the directory
            self._later.submit(run)


def _numbers(stack: Stack | None) -> list[int]:
    """Return the numbers of a stack's layers, but for the empty one, which always stays."""
    return [] if stack is None else [layer.number for layer in stack.layers if layer.number]


def _is_plain(upper: Path, owner_uid: int | None) -> bool:
    """Whether an upper directory holds only what a commit can describe: no hard link, no attribute, no special mode."""
    skipped: list[Skipped] = []
    with opened_dir(upper) as root:
        if any(not overlay_mounts.is_own(name) for name in os.listxattr(root)):
            return False
        return all(is_plain_entry(found, owner_uid) for found in walk(root, skipped)) and not skipped


def is_plain_entry(found: Found, owner_uid: int | None) -> bool:
    """Whether an entry of an upper directory is only what a commit can describe."""
    status = found.status
    if overlay_mounts.is_whiteout(status):
        return True
    kind = stat.S_IFMT(status.st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK) or (kind == stat.S_IFREG and status.st_nlink > 1):
        return False
    if kind != stat.S_IFLNK and status.st_mode & 0o7000:
        return False
    names = os.listxattr(f"/proc/self/fd/{found.directory}/{found.name}", follow_symlinks=False)
    return (
        status.st_uid == (os.geteuid() if owner_uid is None else owner_uid)
        and all(map(overlay_mounts.is_own, names))
        and overlay_mounts.REDIRECT not in names
    )


def _relative(path: str, place: Place) -> str:
    return path[len(place.sub_path) + 1 :] if place.sub_path else path

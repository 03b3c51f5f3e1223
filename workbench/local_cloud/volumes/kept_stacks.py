"""Records of stacks of layers, by which the next cloud goes on with them instead of laying all files out again.

A record says which commits the layers of a place show, and has a digest of what the kernel knows of every entry in
them: its inode, and the time of its last change, which it sets whenever content, owner, mode or attributes change. The
record is written last, when all that it describes is on the disk. So a stack is what it was if its commits are those of
the volume's history, and the digests are the same; else it is laid out anew.
"""

import hashlib
import json
import os
import stat
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from workbench.local_cloud.base.disk import sync_all
from workbench.local_cloud.base.guest_directories import remove_tree
from workbench.local_cloud.store.holes import write_all
from workbench.local_cloud.volumes.committed import CommittedVolumes
from workbench.local_cloud.volumes.stacks import TREE, Layer, Place, Stack

_log = structlog.get_logger(__name__)
_SUFFIX = ".json"
_MAX_BYTES = 100_000  # of a record


class KeptStacks:
    """The records in the directory of the layers, one per place. May be called from any thread, and blocks."""

    def __init__(self, root: Path, committed: CommittedVolumes) -> None:
        self._root = root
        self._committed = committed
        self._lock = threading.Lock()
        self._kept: dict[Place, Stack] = {}
        self._digests: dict[int, str] = {}  # of layers, which never change

    def load(self) -> list[Stack]:
        """Return the stacks of all records, the newest last, whose commits are in the history; others are removed."""
        paths = sorted(self._root.glob(f"*{_SUFFIX}"), key=lambda path: path.lstat().st_mtime_ns)
        with self._lock:
            for path in paths:
                try:
                    self._read(path)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    _log.info("layers.record_left_out", record=path.name, why=repr(error)[:300])
                    remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            return list(self._kept.values())

    def is_unchanged(self, stack: Stack) -> bool:
        """Whether the layers of a stack from a record are what they were when it was written."""
        with self._lock:
            noted = dict(self._digests)
        try:
            return all(noted.get(number) == _digest(self._root / str(number)) for number in _numbers(stack))
        except OSError:
            return False

    def lacks(self, stack: Stack) -> int:
        """Return how many more entries a stack has than the record of its place describes."""
        with self._lock:
            kept = self._kept.get(stack.place)
        if kept is None or stack.layers[: len(kept.layers)] != kept.layers:
            return stack.entries
        return abs(stack.entries - kept.entries)

    def keep(self, stack: Stack) -> None:
        """Write the record of a stack; does nothing when there is one. Raises OSError."""
        with self._lock:
            if self._kept.get(stack.place) == stack:
                return
        commits = self._commits(stack)
        digests = {number: self._digests.get(number) or _digest(self._root / str(number)) for number in _numbers(stack)}
        sync_all(self._root)
        record = {
            "place": asdict(stack.place),
            "layers": [[layer.number, layer.head] for layer in stack.layers],
            "entries": stack.entries,
            "size": stack.size,
            "commits": commits,
            "digests": {str(number): digest for number, digest in digests.items()},
        }
        with self._lock:
            if not all((self._root / str(number)).is_dir() for number in _numbers(stack)):
                return  # nobody needs it any more
            _write(self._path(stack.place), json.dumps(record).encode())
            self._kept[stack.place] = stack
            self._digests.update(digests)

    def forget(self, numbers: Collection[int]) -> None:
        """Remove the records that have any of these layers, which are about to be removed."""
        with self._lock:
            for place, stack in list(self._kept.items()):
                if not set(numbers).isdisjoint(_numbers(stack)):
                    del self._kept[place]
                    self._path(place).unlink(missing_ok=True)
            for number in numbers:
                self._digests.pop(number, None)

    def _read(self, path: Path) -> None:
        """Take a record into account. Raises ValueError and others when it is not what `keep` has written."""
        with path.open("rb") as file:
            record: dict[str, Any] = json.loads(file.read(_MAX_BYTES))
        place = Place(**record["place"])
        layers = tuple(Layer(int(number), int(head)) for number, head in record["layers"])
        stack = Stack(place, layers, int(record["entries"]), int(record["size"]))
        if path != self._path(place) or not layers or min(layer.number for layer in layers) < 0:
            raise ValueError("it is not the record of its place")
        if record["commits"] != self._commits(stack):
            raise ValueError("the history has other commits")
        digests = {number: str(record["digests"][str(number)]) for number in _numbers(stack)}
        self._kept[place] = stack
        self._digests.update(digests)

    def _commits(self, stack: Stack) -> list[str]:
        """Return what tells the commits of a stack from all others, also from those of a restored state."""
        return [self._committed.mark(stack.place.volume_id, layer.head) for layer in stack.layers]

    def _path(self, place: Place) -> Path:
        name = hashlib.sha256(json.dumps(asdict(place)).encode()).hexdigest()[:32]
        return self._root / f"{name}{_SUFFIX}"


def _numbers(stack: Stack) -> list[int]:
    """Return the numbers of a stack's layers, but for the empty one."""
    return [layer.number for layer in stack.layers if layer.number]


def _digest(layer: Path) -> str:
    """Return a digest of what the kernel knows of the entries of a layer. Raises OSError."""
    if [path.name for path in layer.iterdir() if path.name not in (TREE, "scratch")]:
        raise FileExistsError(f"{layer} has more than a layer")
    digest = hashlib.sha256()
    for line in _lines(str(layer / TREE)):
        digest.update(line)
    return digest.hexdigest()


def _lines(top: str) -> Iterator[bytes]:
    waiting = [top]
    yield _line("", os.lstat(top))
    while waiting:
        here = waiting.pop()
        with os.scandir(here) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            yield _line(entry.path[len(top) :], status)
            if stat.S_ISDIR(status.st_mode):
                waiting.append(entry.path)


def _line(path: str, status: os.stat_result) -> bytes:
    facts = (status.st_ino, status.st_ctime_ns, status.st_size, status.st_mode, status.st_uid, status.st_nlink)
    return os.fsencode(path) + b"\0" + " ".join(map(str, facts)).encode() + b"\0"


def _write(path: Path, data: bytes) -> None:
    """Replace a file by another one, which is on the disk then."""
    made = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        made.unlink()
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    made.rename(path)

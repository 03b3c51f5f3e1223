"""Pack files: many small contents, one after another in few files, and an SQLite index of where each of them is.

A content is in the index only when its bytes are on the disk: a kill at any moment loses and tears nothing that was
kept. Bytes that the index does not name are garbage, which `keep_only` removes. Each process appends to packs of its
own. A pack that the index does not know is read when the packs are opened: its writer was killed early, or the index
was lost, which is therefore made anew from the packs.
"""

import errno
import hashlib
import os
import sqlite3
import struct
import threading
import time
import weakref
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from workbench.local_cloud.base.disk import sync
from workbench.local_cloud.store.damage import DamagedStateError, is_damage
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.holes import write_all

_log = structlog.get_logger(__name__)

MAX_CONTENT_BYTES = 64 * 1024  # a larger content is a file of its own
_MAX_PACK_BYTES = 64 * 1024**2  # so that a pack is rewritten in a second
_SMALL_PACK_BYTES = 8 * 1024**2  # several that are smaller become one when they are cleaned up
_MAGIC = b"WBc1"
_HEADER = struct.Struct(">4sI32s")  # magic, length of the content, its sha256
RECORD_BYTES = _HEADER.size  # what a content takes on the disk beside its own bytes
_INDEX = "index.sqlite"
_SUFFIX = ".pack"

_DDL = """
CREATE TABLE IF NOT EXISTS packs (number INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS packed (
  sha256 BLOB PRIMARY KEY, pack INTEGER NOT NULL, position INTEGER NOT NULL, size INTEGER NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Packed:
    """Where a content is: the number of its pack, and the position of its record there; `size` in bytes."""

    sha256: str
    pack: int
    position: int
    size: int


@dataclass(slots=True)
class _Open:
    """The pack to which this process appends, and its length so far."""

    number: int
    end: int = 0


@dataclass(slots=True)
class _Waiting:
    """Contents of one thread that are to be kept."""

    placed: list[Packed]
    is_done: bool = False


class Packs:
    """The packs in one directory, which is made when the first content comes. May be called from any thread."""

    def __init__(self, root: Path) -> None:
        """Open the index, and read the packs that it does not know."""
        self._root = root
        self._lock = threading.RLock()
        self._index: Database | None = None
        self._current: _Open | None = None
        self._keeping = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._named: set[int] = set()  # packs whose names are on the disk
        self._existing()

    def close(self) -> None:
        """Close the index. Idempotent; a later call opens it again."""
        with self._lock:
            self._current = None
            if self._index is not None:
                self._index.close()
                self._index = None

    def find(self, sha256: str) -> Packed | None:
        """Return where a content is, None when no pack has it."""
        index = self._index or self._existing()
        if index is None:
            return None
        row = index.one("SELECT pack, position, size FROM packed WHERE sha256=?", (bytes.fromhex(sha256),))
        return None if row is None else Packed(sha256, row["pack"], row["position"], row["size"])

    def read(self, packed: Packed) -> bytes:
        """Return a content's bytes. Raises FileNotFoundError without its pack, OSError EIO for damaged bytes."""
        descriptor = os.open(self._name(packed.pack), os.O_RDONLY | os.O_CLOEXEC)
        try:
            record = os.pread(descriptor, RECORD_BYTES + packed.size, packed.position)
        finally:
            os.close(descriptor)
        data = record[RECORD_BYTES:]
        if hashlib.sha256(data).hexdigest() != packed.sha256:
            raise OSError(errno.EIO, f"the content {packed.sha256} is damaged in {self._name(packed.pack)}")
        return data

    def append(self, contents: Mapping[str, bytes]) -> list[Packed]:
        """Write contents, by their sha256, to the end of a pack. They are not kept before `keep`. Raises OSError."""
        placed: list[Packed] = []
        with self._lock:
            pack = self._writable()
            parts: list[bytes] = []
            position = pack.end
            for sha256, data in contents.items():
                placed.append(Packed(sha256, pack.number, position, len(data)))
                parts += (_HEADER.pack(_MAGIC, len(data), bytes.fromhex(sha256)), data)
                position += RECORD_BYTES + len(data)
            try:
                _append(self._name(pack.number), b"".join(parts))
            except BaseException:
                self._current = None  # half a record may be at its end: nothing is put behind it
                raise
            pack.end = position
        return placed

    def keep(self, placed: list[Packed]) -> None:
        """Wait until the bytes of contents are on the disk, then put the contents into the index, all or none.

        Threads that come while another one waits for the disk are served together by the next wait.
        """
        mine = _Waiting(placed)
        with self._lock:
            self._waiting.append(mine)
        with self._keeping:
            if mine.is_done:
                return
            with self._lock:
                served, self._waiting = self._waiting, []
            try:
                self._put([packed for waiting in served for packed in waiting.placed])
            except BaseException:
                with self._lock:  # the others try again, each for itself
                    self._waiting += [waiting for waiting in served if waiting is not mine]
                raise
            for waiting in served:
                waiting.is_done = True

    def _put(self, placed: list[Packed]) -> None:
        index = self._opened()
        numbers = {packed.pack for packed in placed}
        for number in numbers:
            sync(self._name(number))
        if not numbers <= self._named:
            sync(str(self._root))
        with index.transaction(durable=True):
            index.executemany("INSERT OR IGNORE INTO packs VALUES (?)", [(number,) for number in numbers])
            index.executemany(
                "INSERT OR REPLACE INTO packed VALUES (?,?,?,?)",
                [(bytes.fromhex(at.sha256), at.pack, at.position, at.size) for at in placed],
            )
        self._named |= numbers

    def all(self) -> Iterator[Packed]:
        """Yield every content that is kept, in the order in which the packs have them."""
        index = self._existing()
        for row in index.all("SELECT * FROM packed ORDER BY pack, position") if index is not None else ():
            yield Packed(row["sha256"].hex(), row["pack"], row["position"], row["size"])

    def keep_only(self, wanted: Container[str]) -> tuple[int, int]:
        """Remove every content that is not `wanted`; returns (how many, their bytes).

        Packs without contents are removed. Those that are mostly garbage, and small ones, are written anew. For a store
        that nobody else uses.
        """
        index = self._existing()
        if index is None:
            return 0, 0
        gone = [packed for packed in self.all() if packed.sha256 not in wanted]
        self._current = None
        with index.transaction(durable=True):
            index.executemany("DELETE FROM packed WHERE sha256=?", [(bytes.fromhex(packed.sha256),) for packed in gone])
        self._rewrite()
        left = set(self._numbers())
        for row in index.all("SELECT number FROM packs"):
            if row["number"] not in left:
                index.execute("DELETE FROM packs WHERE number=?", (row["number"],))
        return len(gone), sum(packed.size for packed in gone)

    def _rewrite(self) -> None:
        """Remove packs without contents; move the contents of packs that are mostly garbage, or small, to new packs."""
        contents: dict[int, list[Packed]] = {number: [] for number in self._numbers()}
        for packed in self.all():
            contents.setdefault(packed.pack, []).append(packed)
        sizes = {number: os.path.getsize(self._name(number)) for number in self._numbers()}  # noqa: PTH202  # see above
        live = {number: sum(at.size + RECORD_BYTES for at in found) for number, found in contents.items()}
        small = [number for number, size in sizes.items() if live[number] and size < _SMALL_PACK_BYTES]
        for number, size in sizes.items():
            if 2 * live[number] < size or (number in small and len(small) > 1):
                try:
                    self._move(contents[number])
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    continue  # a damaged pack stays as it is, for the check to tell
                os.unlink(self._name(number))  # noqa: PTH108  # see above

    def _move(self, contents: list[Packed]) -> None:
        if contents:
            self.keep([at for packed in contents for at in self.append({packed.sha256: self.read(packed)})])

    def _existing(self) -> Database | None:
        """Return the index; None when nothing was ever packed, so that an empty store makes no files."""
        return self._opened() if self._index is not None or self._root.is_dir() else None

    def _opened(self) -> Database:
        with self._lock:
            if self._index is None:
                self._root.mkdir(mode=0o700, exist_ok=True)
                self._index = _open_index(self._root / _INDEX)
                weakref.finalize(self, self._index.close)
                self._index.script(_DDL)
                self._read_unknown(self._index)
            return self._index

    def _read_unknown(self, index: Database) -> None:
        """Put the contents of packs that the index does not know into it."""
        known = {int(row["number"]) for row in index.all("SELECT number FROM packs")}
        for number in self._numbers():
            if number not in known:
                self._put([*_records(self._name(number), number)])
                index.execute("INSERT OR IGNORE INTO packs VALUES (?)", (number,))  # also one without any

    def _writable(self) -> _Open:
        """Return the pack to append to: a new one at first, and whenever the last one is full."""
        if self._current is None or self._current.end >= _MAX_PACK_BYTES:
            row = self._opened().one("SELECT MAX(number) AS last FROM packs")
            last = int(row["last"] or 0) if row is not None else 0
            number = max([last, *self._numbers()]) + 1
            os.close(os.open(self._name(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self._current = _Open(number)
        return self._current

    def _numbers(self) -> list[int]:
        """Return the numbers of the pack files that are there."""
        return sorted(int(path.stem) for path in self._root.glob(f"*{_SUFFIX}") if path.stem.isdecimal())

    def _name(self, number: int) -> str:
        """Return a pack's path as text, without pathlib: that takes too long where a mount has thousands of files."""
        return f"{self._root}/{number:08d}{_SUFFIX}"


def _open_index(path: Path) -> Database:
    """Open the index; a damaged one is moved aside, and an empty one takes its place."""
    try:
        return _whole(path)
    except DamagedStateError as error:
        aside = path.with_name(f"{_INDEX}.damaged-{time.time_ns()}")
        path.rename(aside)
        _log.warning("content.index_damaged", error=str(error), moved_to=str(aside))
    for suffix in ("-wal", "-shm"):
        path.with_name(_INDEX + suffix).unlink(missing_ok=True)
    return Database(path)


def _whole(path: Path) -> Database:
    """Open an index; raises DamagedStateError when a part of it is damaged."""
    if not path.exists():
        for suffix in ("-wal", "-shm"):
            path.with_name(_INDEX + suffix).unlink(missing_ok=True)  # of one that is lost
    index = Database(path)
    try:
        found = [str(row[0]) for row in index.all("PRAGMA quick_check(1)")]
    except sqlite3.DatabaseError as error:
        index.close()
        if is_damage(error):
            raise DamagedStateError(f"{path} is damaged: {error}") from error
        raise
    if found != ["ok"]:
        index.close()
        raise DamagedStateError(f"{path} is damaged: {found[0]}")
    return index


def _records(path: str, number: int) -> Iterator[Packed]:
    """Yield the contents of a pack up to the first bytes that are no record; those with other bytes are left out."""
    with open(path, "rb") as file:  # noqa: PTH123  # a name as text
        position = 0
        while (found := _record(file)) is not None:
            sha256, data = found
            if hashlib.sha256(data).digest() == sha256:
                yield Packed(sha256.hex(), number, position, len(data))
            position += RECORD_BYTES + len(data)


def _record(file: BinaryIO) -> tuple[bytes, bytes] | None:
    header = file.read(RECORD_BYTES)
    if len(header) < RECORD_BYTES:
        return None
    magic, size, sha256 = _HEADER.unpack(header)
    if magic != _MAGIC or size > MAX_CONTENT_BYTES:
        return None
    data = file.read(size)
    return (sha256, data) if len(data) == size else None


def _append(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)

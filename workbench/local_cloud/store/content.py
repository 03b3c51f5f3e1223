"""Content-addressed files: each distinct content is kept once, under its sha256, and never changes.

A file appears under its name only when it is whole and on the disk, so a kill at any moment leaves no half file.
Zeros stay holes, here and in every copy: a guest's sparse file costs what it holds, not what it claims.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from workbench.local_cloud.store.disk_reserve import require_room

CHUNK_BYTES = 1 << 20
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_BLOCK_BYTES = 4096  # what a file system gives out at least
_ZEROS = bytes(_BLOCK_BYTES)
_ZERO_CHUNK = bytes(CHUNK_BYTES)
_ROOM_EVERY_BYTES = 64 * CHUNK_BYTES  # between two looks at the disk
_SMALL_BYTES = 64 * 1024  # one read and one write are as fast as the kernel's own copy
_NO_COPY_FILE_RANGE = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


Spend = Callable[[int], None]


class ContentStore:
    """A directory of files named by their sha256 (64 lower-case hexadecimal digits)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tmp = root / "tmp"
        shutil.rmtree(self._tmp, ignore_errors=True)
        self._tmp.mkdir(parents=True)

    def path(self, sha256: str) -> Path:
        """Where a content is, or would be."""
        return self._root / sha256[:2] / sha256[2:]

    def paths(self) -> Iterator[Path]:
        """Every content's file; its parent's name and its own are its hash."""
        for directory in sorted(self._root.iterdir()):
            if directory != self._tmp and directory.is_dir():
                yield from sorted(directory.iterdir())

    def has(self, sha256: str) -> bool:
        """Whether a content is here."""
        return self.path(sha256).is_file()

    def size(self, sha256: str) -> int:
        """The content's length in bytes; raises FileNotFoundError."""
        return self.path(sha256).stat().st_size

    def disk_bytes(self, sha256: str) -> int:
        """What a content takes of the disk; raises FileNotFoundError."""
        return self.path(sha256).stat().st_blocks * 512

    def add_bytes(self, data: bytes) -> str:
        """Keep these bytes and return their sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        return sha256 if self.has(sha256) else self.add_chunks([data])

    def add_file(self, source: BinaryIO, *, max_bytes: int | None = None, spend: Spend = lambda size: None) -> str:
        """Keep what can be read from an open file, `max_bytes` of it at most, and return its sha256.

        `spend` and errors are as for `add_chunks`.
        """
        return self.add_chunks(read_chunks(source, max_bytes=max_bytes), spend=spend)

    def add_chunks(self, chunks: Iterable[bytes], *, spend: Spend = lambda size: None) -> str:
        """Keep the concatenation of some chunks and return its sha256.

        `spend` is told what a content takes of the disk that was not there before; if it raises, nothing is kept.
        Raises CloudError RESOURCE_EXHAUSTED when the disk is nearly full.
        """
        digest = hashlib.sha256()
        size = looked_at = 0
        require_room(self._tmp)
        descriptor, name = tempfile.mkstemp(dir=self._tmp)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    _write_with_holes(file, size, chunk)
                    size += len(chunk)
                    if size - looked_at >= _ROOM_EVERY_BYTES:
                        looked_at = size
                        require_room(self._tmp)
                file.truncate(size)
                file.flush()
                sha256 = digest.hexdigest()
                if not self.has(sha256):
                    os.fsync(file.fileno())
                    spend(os.fstat(file.fileno()).st_blocks * 512)
                    self._settle(temporary, sha256)
        finally:
            temporary.unlink(missing_ok=True)
        return sha256

    def open(self, sha256: str) -> BinaryIO:
        """Open a content for reading; raises FileNotFoundError."""
        return self.path(sha256).open("rb")

    def copy_to(self, sha256: str, target: Path) -> None:
        """Copy a content to a new file: never a hard link, since its reader may write."""
        with target.open("wb") as file:
            self.copy_into(sha256, file.fileno())

    def copy_into(self, sha256: str, descriptor: int) -> None:
        """Copy a content into an open, empty file; the file system shares the blocks where it can."""
        source = os.open(self._name(sha256), os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(source).st_size
            if size <= _SMALL_BYTES:
                _write_all(descriptor, os.read(source, size))
                return
            for start, end in _data(source, size):
                _copy_range(source, descriptor, start, end)
            os.ftruncate(descriptor, size)
        finally:
            os.close(source)

    def _name(self, sha256: str) -> str:
        """The path as text: a mount of a thousand files would spend its time in pathlib."""
        return f"{self._root}/{sha256[:2]}/{sha256[2:]}"

    def _settle(self, temporary: Path, sha256: str) -> None:
        final = self.path(sha256)
        final.parent.mkdir(exist_ok=True)
        temporary.rename(final)
        directory = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the name must be on the disk before a database row speaks of it
        finally:
            os.close(directory)


def _write_with_holes(file: BinaryIO, offset: int, chunk: bytes) -> None:
    """Write a chunk at an offset, which is the file's position; blocks of zeros are left out."""
    if _ZEROS not in chunk:
        file.write(chunk)
        return
    if chunk == _ZERO_CHUNK:
        file.seek(offset + len(chunk))
        return
    begin = 0  # of what is to be written next
    for block in range(-offset % _BLOCK_BYTES, len(chunk) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        if chunk.startswith(_ZEROS, block):
            file.write(memoryview(chunk)[begin:block])
            begin = block + _BLOCK_BYTES
            file.seek(offset + begin)
    file.write(memoryview(chunk)[begin:])


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are no holes, as (start, end)."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole is left
            raise
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy a part of a file to the same place of another."""
    os.lseek(target, start, os.SEEK_SET)
    try:
        while start < end and (copied := os.copy_file_range(source, target, end - start, offset_src=start)):
            start += copied
    except OSError as error:
        if error.errno not in _NO_COPY_FILE_RANGE:
            raise
    while start < end and (data := os.pread(source, min(CHUNK_BYTES, end - start), start)):
        _write_all(target, data)
        start += len(data)
    if start < end:
        raise OSError(errno.EIO, f"{end - start} bytes of a content could not be read")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def read_chunks(source: BinaryIO, *, max_bytes: int | None = None) -> Iterator[bytes]:
    """Read an open file chunk by chunk; the bound ends a file that grows as fast as it is read."""
    left = max_bytes
    while left is None or left > 0:
        chunk = source.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
        if not chunk:
            return
        if left is not None:
            left -= len(chunk)
        yield chunk

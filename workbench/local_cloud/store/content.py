"""Content-addressed files: each distinct content is kept once, under its sha256, and never changes.

A file appears under its name only when it is complete and on the disk, so a kill at any moment leaves no half file.
Blocks of zeros become holes, here and in every copy, so a guest's sparse file takes no more disk than its data.
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
_BLOCK_BYTES = 4096  # the smallest unit in which file systems allocate
_ZEROS = bytes(_BLOCK_BYTES)
_ZERO_CHUNK = bytes(CHUNK_BYTES)
_ROOM_EVERY_BYTES = 64 * CHUNK_BYTES  # written between two checks of the free disk space
_SMALL_BYTES = 64 * 1024  # one read and one write are as fast as the kernel's own copy
_NO_COPY_FILE_RANGE = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


Spend = Callable[[int], None]  # is told the disk bytes of a new content; may raise to refuse it


class ContentStore:
    """A directory of files named by their sha256 (64 lower-case hexadecimal digits)."""

    def __init__(self, root: Path) -> None:
        """Make `root` if it is missing, and remove files that an earlier process did not complete."""
        self._root = root
        self._tmp = root / "tmp"
        shutil.rmtree(self._tmp, ignore_errors=True)
        self._tmp.mkdir(parents=True)

    def path(self, sha256: str) -> Path:
        """Return where a content is, or would be."""
        return self._root / sha256[:2] / sha256[2:]

    def paths(self) -> Iterator[Path]:
        """Yield every content's file; the name of its directory and its own name together are its sha256."""
        for directory in sorted(self._root.iterdir()):
            if directory != self._tmp and directory.is_dir():
                yield from sorted(directory.iterdir())

    def has(self, sha256: str) -> bool:
        """Whether a content is kept."""
        return self.path(sha256).is_file()

    def size(self, sha256: str) -> int:
        """The content's length in bytes; raises FileNotFoundError."""
        return self.path(sha256).stat().st_size

    def disk_bytes(self, sha256: str) -> int:
        """The bytes that a content takes on the disk, without its holes; raises FileNotFoundError."""
        return self.path(sha256).stat().st_blocks * 512

    def add_bytes(self, data: bytes) -> str:
        """Keep these bytes and return their sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        return sha256 if self.has(sha256) else self.add_chunks([data])

    def add_file(self, source: BinaryIO, *, max_bytes: int | None = None, spend: Spend = lambda size: None) -> str:
        """Keep at most the next `max_bytes` bytes of an open file, and return their sha256.

        `spend` and errors are as for `add_chunks`.
        """
        return self.add_chunks(read_chunks(source, max_bytes=max_bytes), spend=spend)

    def add_chunks(self, chunks: Iterable[bytes], *, spend: Spend = lambda size: None) -> str:
        """Keep the concatenation of some chunks and return its sha256.

        `spend` is called with the disk bytes of a content that was not kept before; if it raises, nothing is kept.
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
        """Copy a content to a new file. Never a hard link: a write to the copy must not change the content."""
        with target.open("wb") as file:
            self.copy_into(sha256, file.fileno())

    def copy_into(self, sha256: str, descriptor: int) -> None:
        """Copy a content into an open, empty file; a file system that can share blocks does so."""
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
        """Return `path` as text, without pathlib: that takes too long where a mount has thousands of files."""
        return f"{self._root}/{sha256[:2]}/{sha256[2:]}"

    def _settle(self, temporary: Path, sha256: str) -> None:
        final = self.path(sha256)
        final.parent.mkdir(exist_ok=True)
        temporary.rename(final)
        directory = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the name must be on the disk before a database row refers to it
        finally:
            os.close(directory)


def _write_with_holes(file: BinaryIO, offset: int, chunk: bytes) -> None:
    """Write a chunk at `offset`, which must be the file's position; whole blocks of zeros become holes."""
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
    """Yield the parts of a file that hold data rather than holes, as (start, end) in bytes."""
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
    """Copy the bytes `start` to `end` of one file to the same place in another. Raises OSError."""
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
    """Yield an open file chunk by chunk, at most `max_bytes` of it: a guest's file may grow as fast as it is read."""
    left = max_bytes
    while left is None or left > 0:
        chunk = source.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
        if not chunk:
            return
        if left is not None:
            left -= len(chunk)
        yield chunk

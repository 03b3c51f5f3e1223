"""Content-addressed files: each distinct content is kept once, under its sha256, and never changes.

A file appears under its name only when it is whole and on the disk, so a kill at any moment leaves no half file.
Long runs of zeros stay holes: a guest's sparse file costs what it holds, not what it claims.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_ZEROS = bytes(CHUNK_BYTES)
_SMALL_BYTES = 64 * 1024  # one read and one write are as fast as the kernel's own copy
_NO_COPY_FILE_RANGE = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


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

    def add_bytes(self, data: bytes) -> str:
        """Keep these bytes and return their sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        return sha256 if self.has(sha256) else self.add_chunks([data])

    def add_file(self, source: BinaryIO, *, max_bytes: int | None = None) -> str:
        """Keep what can be read from an open file, `max_bytes` of it at most, and return its sha256."""
        return self.add_chunks(read_chunks(source, max_bytes=max_bytes))

    def add_chunks(self, chunks: Iterable[bytes]) -> str:
        """Keep the concatenation of some chunks and return its sha256."""
        digest = hashlib.sha256()
        size = 0
        descriptor, name = tempfile.mkstemp(dir=self._tmp)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    if len(chunk) == CHUNK_BYTES and chunk == _ZEROS:
                        file.seek(CHUNK_BYTES, os.SEEK_CUR)
                    else:
                        file.write(chunk)
                file.truncate(size)
                file.flush()
                sha256 = digest.hexdigest()
                if not self.has(sha256):
                    os.fsync(file.fileno())
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
            left = os.fstat(source).st_size
            if left <= _SMALL_BYTES:
                _write_all(descriptor, os.read(source, left))
                return
            while left > 0 and (copied := os.copy_file_range(source, descriptor, left)):
                left -= copied
        except OSError as error:
            if error.errno not in _NO_COPY_FILE_RANGE:
                raise
            with os.fdopen(os.dup(source), "rb") as rest, os.fdopen(os.dup(descriptor), "wb") as target:
                rest.seek(os.lseek(descriptor, 0, os.SEEK_CUR))  # continues where the kernel's copy stopped
                shutil.copyfileobj(rest, target, CHUNK_BYTES)
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

"""Content-addressed files: each distinct content is kept once, under its sha256, and never changes.

A file appears under its name only when it is whole and on the disk, so a kill at any moment leaves no half file.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 1 << 20


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

    def has(self, sha256: str) -> bool:
        """Whether a content is here."""
        return self.path(sha256).is_file()

    def add_bytes(self, data: bytes) -> str:
        """Keep these bytes and return their sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256):
            with tempfile.NamedTemporaryFile(dir=self._tmp, delete=False) as file:
                file.write(data)
                self._settle(file.file, Path(file.name), sha256)  # type: ignore[arg-type]  # the wrapped binary file
        return sha256

    def add_file(self, source: BinaryIO) -> str:
        """Keep what can be read from an open file and return its sha256."""
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self._tmp, delete=False) as file:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
            sha256 = digest.hexdigest()
            if self.has(sha256):
                Path(file.name).unlink()
            else:
                self._settle(file.file, Path(file.name), sha256)  # type: ignore[arg-type]  # the wrapped binary file
        return sha256

    def open(self, sha256: str) -> BinaryIO:
        """Open a content for reading; raises FileNotFoundError."""
        return self.path(sha256).open("rb")

    def copy_to(self, sha256: str, target: Path) -> None:
        """Copy a content to a new file: never a link, since its reader may write."""
        shutil.copyfile(self.path(sha256), target, follow_symlinks=False)

    def _settle(self, file: BinaryIO, temporary: Path, sha256: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        final = self.path(sha256)
        final.parent.mkdir(exist_ok=True)
        temporary.rename(final)

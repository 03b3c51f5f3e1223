"""Blobs of images: each kept once, under its digest, in a directory. Complete and verified, or not there at all.

A blob is written under a temporary name, checked, synchronised and only then renamed. Pulls of one process that want
the same blob wait for the first of them; when that fails, the next one downloads with its own rights and time.
"""

import asyncio
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from workbench.local_cloud.base.errors import Reason
from workbench.local_cloud.registry.digests import check_digest
from workbench.local_cloud.registry.errors import RegistryError, damaged

RequireRoom = Callable[[Path, int], None]  # may raise to refuse so many more bytes in a directory
Download = Callable[["PartialBlob"], Awaitable[None]]  # fills it, from `received` on


class PartialBlob:
    """A blob on its way: what has come of it so far, on the disk. Its blocking methods are for threads."""

    def __init__(self, file: BinaryIO, digest: str, size: int) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.digest = digest
        self.size = size
        self.received = 0

    def write(self, data: bytes | bytearray) -> None:
        """Take the next bytes. Raises RegistryError DATA_LOSS for more than there may be."""
        if self.received + len(data) > self.size:
            raise damaged(f"The blob {self.digest} is longer than the {self.size:,} bytes that the image says.")
        self._file.write(data)
        self._hash.update(data)
        self.received += len(data)

    def restart(self) -> None:
        """Forget what has come."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.received = 0

    def verify(self) -> None:
        """Raise RegistryError DATA_LOSS if this is not the blob; otherwise bring it to the disk."""
        if self.received != self.size:
            raise damaged(f"The blob {self.digest} has {self.received:,} bytes; the image says {self.size:,}.")
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self.digest:
            raise damaged(f"A blob's digest is {found}; the image says {self.digest}. It was not used.")
        self._file.flush()
        os.fsync(self._file.fileno())


class BlobStore:
    """A directory of blobs. For one event loop of one process."""

    def __init__(self, root: Path, *, require_room: RequireRoom = lambda directory, wanted: None) -> None:
        """Make `root` if it is missing, and remove what an earlier process did not complete."""
        self._root = root
        self._tmp = root / "tmp"
        self._require_room = require_room
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}
        shutil.rmtree(self._tmp, ignore_errors=True)
        self._tmp.mkdir(parents=True, mode=0o700)

    def path(self, digest: str) -> Path:
        """Return where a blob is, or would be; raises RegistryError for what is no digest."""
        algorithm, _, name = check_digest(digest).partition(":")
        return self._root / algorithm / name[:2] / name

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob of this length is kept."""
        try:
            return self.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def kept(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and the bytes of every blob that is kept."""
        for path in sorted(self._root.glob("sha256/*/*")):
            yield f"sha256:{path.name}", path.stat().st_size

    def remove(self, digest: str) -> None:
        """Remove a blob, if it is there: the next pull downloads it again."""
        self.path(digest).unlink(missing_ok=True)

    async def obtain(self, digest: str, size: int, download: Download) -> Path:
        """Return the blob's file, downloaded if it is not kept.

        Raises what `download` and `require_room` raise, RegistryError DATA_LOSS for other content and
        RESOURCE_EXHAUSTED when the disk is full.
        """
        async with self._alone_with(digest):
            if not await asyncio.to_thread(self.has, digest, size):
                await self._fetch(digest, size, download)
        return self.path(digest)

    @asynccontextmanager
    async def _alone_with(self, digest: str) -> AsyncIterator[None]:
        lock, users = self._locks.setdefault(digest, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[digest]

    async def _fetch(self, digest: str, size: int, download: Download) -> None:
        self._require_room(self._tmp, size)
        with _disk_told():
            await self._write(digest, size, download)

    async def _write(self, digest: str, size: int, download: Download) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._tmp)
        try:
            with os.fdopen(descriptor, "wb") as file:
                partial = PartialBlob(file, digest, size)
                await download(partial)
                await asyncio.to_thread(partial.verify)
            await asyncio.to_thread(self._settle, Path(name), digest)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108 - pathlib's is told apart as blocking; this is one call

    def _settle(self, temporary: Path, digest: str) -> None:
        final = self.path(digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(final)
        for directory in (final.parent, final.parent.parent, self._root):
            _synchronise(directory)


@contextmanager
def _disk_told() -> Iterator[None]:
    """Turn what the disk refuses into a RegistryError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise RegistryError(
            Reason.RESOURCE_EXHAUSTED if full else Reason.INTERNAL,
            f"A part of the image could not be written: {os.strerror(error.errno or errno.EIO)}."
            f"{' Make room on the disk of the cloud.' if full else ''}",
        ) from None


def _synchronise(directory: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Content-addressed storage: each distinct content is kept once, under its sha256, and never changes.

Small contents are in pack files (`store.packs`). A larger one, and one with blocks of zeros, which become holes here
and in every copy, is a file of its own. A content can be found only when it is complete and on the disk, so a kill at
any moment leaves no half of one. Contents that belong together are added as one batch, which waits for the disk once.
"""

import hashlib
import io
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from workbench.local_cloud.base.disk import sync
from workbench.local_cloud.store.disk_reserve import require_room
from workbench.local_cloud.store.holes import CHUNK_BYTES, copy_with_holes, has_hole, write_all, write_with_holes
from workbench.local_cloud.store.packs import MAX_CONTENT_BYTES, RECORD_BYTES, Packed, Packs

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_ROOM_EVERY_BYTES = 64 * CHUNK_BYTES  # written between two checks of the free disk space
_BATCH_BYTES = 4 * CHUNK_BYTES  # of small contents that a batch holds in memory before it writes them


Spend = Callable[[int], None]  # is told the disk bytes of a new content; may raise to refuse it


@dataclass(frozen=True, slots=True)
class Content:
    """One content that is kept; `size` in bytes."""

    sha256: str
    size: int


class ContentStore:
    """A directory of contents, each named by its sha256 (64 lower-case hexadecimal digits)."""

    def __init__(self, root: Path) -> None:
        """Make `root` if it is missing, and remove files that an earlier process did not complete."""
        self._root = root
        self._tmp = root / "tmp"
        shutil.rmtree(self._tmp, ignore_errors=True)
        self._tmp.mkdir(parents=True)
        self._packs = Packs(root / "packs")

    def close(self) -> None:
        """Close what is open. Idempotent."""
        self._packs.close()

    def contents(self) -> Iterator[Content]:
        """Yield every content that is kept."""
        for path in self._files():
            yield Content(path.parent.name + path.name, path.stat().st_size)
        for packed in self._packs.all():
            yield Content(packed.sha256, packed.size)

    def has(self, sha256: str) -> bool:
        """Whether a content is kept."""
        return self._packs.find(sha256) is not None or os.path.isfile(self._name(sha256))  # noqa: PTH113  # see `_name`

    def size(self, sha256: str) -> int:
        """The content's length in bytes; raises FileNotFoundError."""
        packed = self._packs.find(sha256)
        return packed.size if packed is not None else os.stat(self._name(sha256)).st_size  # noqa: PTH116  # see `_name`

    def disk_bytes(self, sha256: str) -> int:
        """The bytes that a content takes on the disk, without its holes; raises FileNotFoundError."""
        packed = self._packs.find(sha256)
        if packed is not None:
            return packed.size + RECORD_BYTES
        return os.stat(self._name(sha256)).st_blocks * 512  # noqa: PTH116  # see `_name`

    @contextmanager
    def batch(self) -> Iterator["Batch"]:
        """Give a batch: what is added to it is kept when the block ends, all or nothing, with one wait for the disk.

        If the block raises, nothing of the batch is kept.
        """
        batch = Batch(self._root, self._tmp, self._packs, self.has)
        try:
            yield batch
            batch.keep()
        finally:
            batch.tidy()

    def add_bytes(self, data: bytes) -> str:
        """Keep these bytes and return their sha256."""
        return self.add_chunks([data])

    def add_file(self, source: BinaryIO, *, max_bytes: int | None = None, spend: Spend = lambda size: None) -> str:
        """Keep at most the next `max_bytes` bytes of an open file, and return their sha256.

        `spend` and errors are as for `Batch.add_chunks`.
        """
        return self.add_chunks(read_chunks(source, max_bytes=max_bytes), spend=spend)

    def add_chunks(self, chunks: Iterable[bytes], *, spend: Spend = lambda size: None) -> str:
        """Keep the concatenation of some chunks and return its sha256. A batch of one content; see there."""
        with self.batch() as batch:
            return batch.add_chunks(chunks, spend=spend).sha256

    def open(self, sha256: str) -> BinaryIO:
        """Open a content for reading; raises FileNotFoundError, and OSError for a damaged pack."""
        packed = self._packs.find(sha256)
        if packed is not None:
            return io.BytesIO(self._packs.read(packed))
        return Path(self._name(sha256)).open("rb")

    def read(self, sha256: str) -> bytes:
        """Return the bytes of a content that is not large; errors are as for `open`."""
        with self.open(sha256) as file:
            return file.read()

    def copy_to(self, sha256: str, target: Path) -> None:
        """Copy a content to a new file. Never a hard link: a write to the copy must not change the content."""
        with target.open("wb") as file:
            self.copy_into(sha256, file.fileno())

    def copy_into(self, sha256: str, descriptor: int) -> None:
        """Copy a content into an open, empty file; a file system that can share blocks does so. Errors as `open`."""
        packed = self._packs.find(sha256)
        if packed is not None:
            write_all(descriptor, self._packs.read(packed))
            return
        source = os.open(self._name(sha256), os.O_RDONLY | os.O_CLOEXEC)
        try:
            copy_with_holes(source, descriptor)
        finally:
            os.close(source)

    def keep_only(self, wanted: Container[str]) -> tuple[int, int]:
        """Remove every content that is not `wanted`; returns (how many, their bytes). Nobody else may use the store."""
        removed, size = self._packs.keep_only(wanted)
        for path in self._files():
            if path.parent.name + path.name not in wanted:
                removed, size = removed + 1, size + path.stat().st_size
                path.unlink()
        return removed, size

    def _files(self) -> Iterator[Path]:
        """Yield the contents that are files of their own: two digits of the sha256 name the directory, 62 the file."""
        for directory in sorted(self._root.iterdir()):
            if len(directory.name) == 2:
                yield from sorted(directory.iterdir())

    def _name(self, sha256: str) -> str:
        """Return where a file of its own is, as text: pathlib takes too long where a mount has thousands of files."""
        return _name(self._root, sha256)


class Batch:
    """Contents that are kept together; made by `ContentStore.batch`, for one thread."""

    def __init__(self, root: Path, tmp: Path, packs: Packs, has: Callable[[str], bool]) -> None:
        self._root = root
        self._tmp = tmp
        self._packs = packs
        self._has = has
        self._added: set[str] = set()
        self._waiting: dict[str, bytes] = {}  # small contents that are not written yet
        self._waiting_bytes = 0
        self._placed: list[Packed] = []
        self._files: dict[str, str] = {}  # where the larger ones are until they are kept

    def add_file(self, source: BinaryIO, *, max_bytes: int | None = None, spend: Spend = lambda size: None) -> Content:
        """Add at most the next `max_bytes` bytes of an open file. `spend` and errors are as for `add_chunks`."""
        return self.add_chunks(read_chunks(source, max_bytes=max_bytes), spend=spend)

    def add_chunks(self, chunks: Iterable[bytes], *, spend: Spend = lambda size: None) -> Content:
        """Add the concatenation of some chunks.

        `spend` is called with the disk bytes of a content that was not kept before; if it raises, nothing is kept.
        Raises CloudError RESOURCE_EXHAUSTED when the disk is nearly full.
        """
        chunks = iter(chunks)
        head = next(chunks, b"")
        for chunk in chunks:
            head += chunk
            if len(head) > MAX_CONTENT_BYTES:
                break
        if len(head) > MAX_CONTENT_BYTES or has_hole(head):
            return self._add_file(itertools.chain([head], chunks), spend)
        sha256 = hashlib.sha256(head).hexdigest()
        if self._is_new(sha256):
            spend(len(head) + RECORD_BYTES)
            self._added.add(sha256)
            self._waiting[sha256] = head
            self._waiting_bytes += len(head)
            if self._waiting_bytes >= _BATCH_BYTES:
                self._write()
        return Content(sha256, len(head))

    def keep(self) -> None:
        """Wait until everything that was added is on the disk, and make it findable."""
        self._write()
        for name in self._files.values():
            sync(name)
        for sha256, name in self._files.items():
            final = _name(self._root, sha256)
            Path(final).parent.mkdir(exist_ok=True)
            os.rename(name, final)  # noqa: PTH104  # names as text
        for directory in {str(Path(_name(self._root, sha256)).parent) for sha256 in self._files}:
            sync(directory)  # the name must be on the disk before a database row refers to it
        if self._placed:
            self._packs.keep(self._placed)

    def tidy(self) -> None:
        """Remove the files that were not kept."""
        for name in self._files.values():
            with suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108  # names as text

    def _is_new(self, sha256: str) -> bool:
        return sha256 not in self._added and not self._has(sha256)

    def _write(self) -> None:
        """Write the small contents that wait into a pack; nothing refers to them before `keep`."""
        if self._waiting:
            require_room(self._tmp, self._waiting_bytes)
            self._placed += self._packs.append(self._waiting)
            self._waiting, self._waiting_bytes = {}, 0

    def _add_file(self, chunks: Iterable[bytes], spend: Spend) -> Content:
        digest = hashlib.sha256()
        size = looked_at = 0
        require_room(self._tmp)
        descriptor, name = tempfile.mkstemp(dir=self._tmp)
        is_new = False
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    write_with_holes(file, size, chunk)
                    size += len(chunk)
                    if size - looked_at >= _ROOM_EVERY_BYTES:
                        looked_at = size
                        require_room(self._tmp)
                file.truncate(size)
                file.flush()
                sha256 = digest.hexdigest()
                if self._is_new(sha256):
                    spend(_allocated(file, size))
                    is_new = True
        finally:
            if not is_new:
                os.unlink(name)  # noqa: PTH108  # names as text
        if is_new:
            self._added.add(sha256)
            self._files[sha256] = name
        return Content(sha256, size)


def _name(root: Path, sha256: str) -> str:
    return f"{root}/{sha256[:2]}/{sha256[2:]}"


def _allocated(file: BinaryIO, size: int) -> int:
    """Return what a file takes on the disk; one with holes is written out before, which may take more for its map."""
    if os.fstat(file.fileno()).st_blocks * 512 < size:
        os.fdatasync(file.fileno())
    return os.fstat(file.fileno()).st_blocks * 512


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

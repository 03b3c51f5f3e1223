"""A layer's archive as tarfile reads it: decompressed, counted, hashed, and held to its limits.

tarfile gets it as a file that is read forwards only. It takes each header, with all that belongs to it, into memory,
and older versions of it search some texts for very long: so a header's size and text are looked at before.
"""

import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol, cast

from workbench.local_cloud.registry.unpacking.limits import Limits
from workbench.local_cloud.registry.unpacking.refusals import LayerRefusedError, UnpackFailedError, printable

try:
    import zstandard
except ImportError:  # a script without the project's packages can still unpack all other layers
    zstandard = None  # type: ignore[assignment]  # looked at where a zstd layer begins

_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 64 * 1024
_ZSTD_WINDOW_BYTES = 1 << 27  # what the zstd command itself takes without being asked
_GZIP = b"\x1f\x8b"
_ZSTD, _ZSTD_SKIPPED = 0xFD2FB528, 0x184D2A50  # of the latter, any last digit
_RECORD = re.compile(rb"([1-9][0-9]{0,8}) ([^=]+)=")  # of a pax header; the number is the record's length
_KEYWORD_BYTES = 512
_DIGITS = re.compile(rb"[0-9]{1,1024}")
_MOST_DIGITS = 1024  # in a row, in a pax header


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Archive:
    """The archive in an open file."""

    def __init__(self, blob: int, limits: Limits) -> None:
        os.lseek(blob, 0, os.SEEK_SET)
        self._raw = _Counted(open(blob, "rb", buffering=0, closefd=False))  # noqa: SIM115 - a descriptor
        self._source = _decompressed(self._raw)
        self._digest = hashlib.sha256()
        self._limits = limits
        self._header_end: int | None = None
        self.pax_bytes = 0  # of a pax header that is read next
        self.position = 0

    # -- what tarfile wants of a file

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, less at the end only. Raises LayerRefusedError beyond a limit."""
        if self._header_end is not None and self.position + size > self._header_end:
            raise LayerRefusedError(f"A member's header is longer than {self._limits.header:,} bytes.")
        data = b"".join(self._chunks(size))
        if self.pax_bytes:
            _check_pax(data[: self.pax_bytes])
            self.pax_bytes = 0
        return data

    def tell(self) -> int:
        """Return how much of the archive has been read."""
        return self.position

    def seekable(self) -> bool:
        """Say no: what is read is gone."""
        return False

    def seek(self, position: int) -> int:
        """Skip forwards; nothing that is skipped counts as a header."""
        if position < self.position:
            raise LayerRefusedError("The layer is damaged: a member's size makes no sense.")
        if self._header_end is not None:
            self._header_end += position - self.position
        for _ in self._chunks(position - self.position):
            pass
        return self.position

    # -- what its owner wants

    @contextmanager
    def header(self) -> Iterator[None]:
        """Within the block, only as much is read as one member's header may have."""
        self._header_end = self.position + self._limits.header
        try:
            yield
        finally:
            self._header_end = None

    def finish(self, diff_id: str) -> None:
        """Read what follows the archive's end, and compare the digest of it all with `diff_id`."""
        while self.read(_CHUNK_BYTES):
            pass
        found = f"sha256:{self._digest.hexdigest()}"
        if found != diff_id:
            raise LayerRefusedError(f"The unpacked layer's digest is {found}; the image says {diff_id[:100]}.")

    def _chunks(self, size: int) -> Iterator[bytes]:
        while size > 0 and (data := self._source.read(min(size, _CHUNK_BYTES))):
            size -= len(data)
            self.position += len(data)
            self._digest.update(data)
            self._look_at_limits()
            yield data

    def _look_at_limits(self) -> None:
        if self.position > self._limits.archive:
            raise LayerRefusedError(f"The layer has more than {self._limits.archive:,} bytes when it is unpacked.")
        if self.position > max(self._limits.ratio_from, self._limits.ratio * self._raw.position):
            raise LayerRefusedError(
                f"The layer is compressed to less than a {self._limits.ratio}th of its size, as no real one is."
            )


class _Counted(io.RawIOBase):
    """A file that knows how much of it has been read, and may be looked into at its beginning."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self.position = 0
        self.start = self._file.read(4) or b""
        self._file.seek(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self._file.readinto(buffer) or 0)
        self.position += count
        return count


def _decompressed(raw: _Counted) -> _Source:
    """Return a reader of the archive in `raw`; several members of gzip or frames of zstd follow one another."""
    if raw.start.startswith(_GZIP):
        return gzip.GzipFile(fileobj=io.BufferedReader(raw, _BUFFER_BYTES), mode="rb")
    number = int.from_bytes(raw.start, "little")
    if number == _ZSTD or number & ~0xF == _ZSTD_SKIPPED:
        if zstandard is None:
            raise UnpackFailedError("The layer is compressed with zstd: install the Python package zstandard.")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        return decompressor.stream_reader(cast("IO[bytes]", raw), read_across_frames=True)
    return io.BufferedReader(raw, _BUFFER_BYTES)


def _check_pax(header: bytes) -> None:
    """Refuse a pax header that is not records from its beginning to its end, or is made to be slow to read."""
    position = 0
    while position < len(header):
        record = _RECORD.match(header, position, position + _KEYWORD_BYTES)
        end = position + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(header) or header[end - 1] != ord("\n"):
            raise LayerRefusedError("The layer is damaged: a member's extended header makes no sense.")
        position = end
    if any(len(digits) == _MOST_DIGITS for digits in _DIGITS.findall(header)):
        raise LayerRefusedError(f"A member's extended header has {_MOST_DIGITS:,} digits in a row, as no real one has.")


@contextmanager
def damage_told() -> Iterator[None]:
    """Turn what readers of archives and of compressed streams raise into LayerRefusedError."""
    damaged: tuple[type[Exception], ...] = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
    if zstandard is not None:
        damaged = (*damaged, zstandard.ZstdError)
    try:
        yield
    except damaged as error:
        raise LayerRefusedError(f"The layer is damaged: {printable(str(error))}.") from error

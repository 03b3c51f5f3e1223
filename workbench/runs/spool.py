"""Keeps the newest of very many bytes: in memory while they are few, then in private temporary files without a name.

The files are gone with the process, however it ends, and at the latest with the spool itself. Where none can be
written, less is kept, in memory. Not for use by several threads at once.
"""

import os
import tempfile
import weakref
from contextlib import suppress
from typing import BinaryIO

KEPT_BYTES = 1024**3  # what is kept at most; when there is more, the older half goes
IN_MEMORY_BYTES = 4 * 1024**2  # beyond which a file is made
WITHOUT_FILE_BYTES = 16 * 1024**2  # of each half, when no file can be written


class Spool:
    """Addresses count all bytes that were ever written; those before `begin` are forgotten."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._files: list[BinaryIO] = []
        self._room = max(1, kept_bytes // 2)
        self._halves = [_Half(0, self._files)]
        self._close = weakref.finalize(self, _close_all, self._files)

    @property
    def begin(self) -> int:
        """The address of the first byte that is kept."""
        return self._halves[0].begin

    def append(self, data: bytes) -> int:
        """Keep some bytes; returns their address. The oldest may be forgotten for them."""
        newest = self._halves[-1]
        if newest.size and newest.size + len(data) > min(self._room, newest.room):
            newest = self._begin_another()
        try:
            return newest.append(data)
        except OSError:  # the disk is full: what the file has stays readable, until memory has more than it may
            newest = self._begin_another()
            newest.room = WITHOUT_FILE_BYTES
            return newest.append(data)

    def read(self, address: int, size: int) -> bytes:
        """Bytes that were appended together. Raises LookupError when they are forgotten."""
        for half in self._halves:
            if half.begin <= address and address + size <= half.end:
                return half.read(address, size)
        raise LookupError("these bytes are no longer kept")

    def close(self) -> None:
        """Forget everything, and end the files. Idempotent."""
        self._close()
        self._halves = [_Half(self._halves[-1].end, self._files)]

    def _begin_another(self) -> "_Half":
        self._halves.append(_Half(self._halves[-1].end, self._files))
        for gone in self._halves[:-2]:
            gone.close()
        del self._halves[:-2]
        return self._halves[-1]


class _Half:
    """One run of addresses, in memory or in a file."""

    def __init__(self, begin: int, files: list[BinaryIO]) -> None:
        self.begin = begin
        self.size = 0
        self.room = KEPT_BYTES
        self._files = files
        self._memory = bytearray()
        self._file: BinaryIO | None = None

    @property
    def end(self) -> int:
        return self.begin + self.size

    def append(self, data: bytes) -> int:
        if self._file is None and self.size + len(data) > IN_MEMORY_BYTES and self.room == KEPT_BYTES:
            self._to_file()
        address = self.end
        if self._file is None:
            self._memory += data
        else:
            _write(self._file, data, self.size)
        self.size += len(data)
        return address

    def read(self, address: int, size: int) -> bytes:
        at = address - self.begin
        if self._file is None:
            return bytes(self._memory[at : at + size])
        return os.pread(self._file.fileno(), size, at)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._files.remove(self._file)

    def _to_file(self) -> None:
        file: BinaryIO | None = None
        try:
            file = tempfile.TemporaryFile(prefix="workbench-output-", buffering=0)  # noqa: SIM115  # it stays open
            _write(file, bytes(self._memory), 0)
        except OSError:
            if file is not None:
                file.close()
            self.room = WITHOUT_FILE_BYTES
            return
        self._files.append(file)
        self._file, self._memory = file, bytearray()


def _write(file: BinaryIO, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file.fileno(), view, at)
        view, at = view[done:], at + done


def _close_all(files: list[BinaryIO]) -> None:
    while files:
        with suppress(OSError):
            files.pop().close()

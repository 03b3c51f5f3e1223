"""Keeps a stream of output on disk, addressable by offset; memory never grows with what a job prints.

When nobody has read for a window's length the pipe is no longer emptied, and the job waits, as on any full pipe.
"""

import asyncio
import os
import tempfile
from pathlib import Path

WINDOW_BYTES = 64 * 1024 * 1024  # how far a job may print ahead of its furthest reader
_CHUNK_BYTES = 1024 * 1024


class Spool:
    """One stream: filled from a pipe's read end, read by any number of readers."""

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115  # closed by discard
        self._source: int | None = None
        self._reading = False
        self._furthest = 0
        self._changed = asyncio.Event()
        self.size = 0
        self.finished = False

    def fill_from(self, descriptor: int) -> None:
        """Take over the read end of a pipe."""
        os.set_blocking(descriptor, False)
        self._source = descriptor
        self._resume()

    async def read(self, offset: int, *, max_bytes: int = 256 * 1024) -> bytes:
        """Wait for bytes at `offset` and return some; b"" is the end of the stream."""
        while True:
            if offset > self._furthest:
                self._furthest = min(offset, self.size)
                self._resume()
            if offset < self.size:
                return os.pread(self._file.fileno(), max_bytes, offset)
            if self.finished:
                return b""
            await self._changed.wait()

    def drain(self) -> None:
        """The writer has ended: take what is in the pipe now, and finish even if a stray process still holds it."""
        while self._source is not None and self._take():
            pass
        self._finish()

    def discard(self) -> None:
        """Release the file and the pipe; readers see the end. Idempotent."""
        self._finish()
        self._file.close()
        self.size = 0

    def _resume(self) -> None:
        if self._source is not None and not self._reading:
            asyncio.get_running_loop().add_reader(self._source, self._on_readable)
            self._reading = True

    def _pause(self) -> None:
        if self._source is not None and self._reading:
            asyncio.get_running_loop().remove_reader(self._source)
            self._reading = False

    def _on_readable(self) -> None:
        if self.size - self._furthest >= WINDOW_BYTES:
            self._pause()
        else:
            self._take()

    def _take(self) -> bool:
        assert self._source is not None
        try:
            data = os.read(self._source, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._finish()
            return False
        view = memoryview(data)
        while view:
            written = os.write(self._file.fileno(), view)
            view = view[written:]
        self.size += len(data)
        self._notify()
        return self.size - self._furthest < WINDOW_BYTES

    def _finish(self) -> None:
        self._pause()
        if self._source is not None:
            os.close(self._source)
            self._source = None
        self.finished = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

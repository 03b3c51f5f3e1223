"""Spools a stream of output to disk, where it can be read at any offset. Memory and disk stay bounded.

When the furthest reader is `WINDOW_BYTES` behind, the pipe is not read any more, so that the job waits as on any full
pipe. Of what was read already, the last `KEPT_BYTES` can be read again, enough for a reader that resumes after a broken
connection.

A program may end while others that it has started still have its pipe open, such as a server in the background or a
filter behind `exec > >(…)`. What these print shortly after still belongs to the stream. After the stream's end the pipe
is still read, as long as it is open somewhere, and the data discarded: closing it would kill those writers by SIGPIPE.
"""

import asyncio
import errno
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

WINDOW_BYTES = 64 * 1024 * 1024  # how far a job may print ahead of its furthest reader
KEPT_BYTES = 64 * 1024 * 1024  # how much of what was read already can be read again
SEGMENT_BYTES = 16 * 1024 * 1024
QUIET_S = 1.0  # a stream ends when its program has ended and nothing was printed for so long
LINGER_S = 5.0  # a stream ends at most so long after its program, even if others still print
_DROP_PAUSE_S = 0.05  # between two chunks that are discarded, so that a flood takes little of our time
_CHUNK_BYTES = 1024 * 1024
_MAX_PIPE_BYTES = 1024 * 1024  # the largest pipe that the kernel gives an unprivileged user


class OutputForgottenError(Exception):
    """The output at this offset was read before and is no longer kept."""


class OutputLostError(Exception):
    """Output after this offset could not be read or stored: this is not the stream's end. The message says why."""


class Spool:
    """One stream of output, filled from a pipe or a terminal, and read by any number of readers.

    `size` counts the bytes so far, `kept_from` is the first offset that can still be read. `finished` says that no more
    bytes come.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._segments: dict[int, BinaryIO] = {}
        self._source: int | None = None
        self._reading = False
        self._furthest = 0
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None  # for the next check of a pipe whose program has ended
        self._ended_at: float | None = None
        self.size = 0
        self.kept_from = 0
        self.finished = False
        self._lost = ""  # why output is missing at the end, empty if none is

    def fill_from(self, descriptor: int) -> None:
        """Begin to read from a pipe's read end or a terminal, which is closed here later."""
        os.set_blocking(descriptor, False)
        self._source = descriptor
        self._resume()

    async def read(self, offset: int, *, max_bytes: int = 1024 * 1024, pace: bool = True) -> bytes:
        """Wait for bytes at `offset` and return at most `max_bytes` of them; b"" is the end of the stream.

        Without `pace`, this reader does not count as the furthest one: the job does not go on because of it. Raises
        OutputForgottenError, and OutputLostError when output is missing where the end would be.
        """
        while True:
            if pace and offset > self._furthest:
                self._furthest = min(offset, self.size)
                self._forget()
                self._resume()
            if offset < self.kept_from:
                raise OutputForgottenError(f"the first {self.kept_from} bytes of this output are no longer kept")
            if offset < self.size:
                return self._at(offset, max_bytes)
            if self.finished and self._lost:
                raise OutputLostError(self._lost)
            if self.finished:
                return b""
            await self._changed.wait()

    def drain(self) -> None:
        """Read what is in the pipe now and end the stream soon; to be called when the program has ended.

        The end comes after at most `LINGER_S`, even if other programs still have the pipe open.
        """
        left = _MAX_PIPE_BYTES  # others may go on writing
        while self._source is not None and left > 0 and (taken := self._take()):
            left -= taken
        if self._source is None:
            self._finish()
        elif self._ended_at is None and not self.finished:
            self._ended_at = asyncio.get_running_loop().time()
            self._resume()
            self._timer = asyncio.get_running_loop().call_later(QUIET_S, self._expect_end, self.size)

    def discard(self) -> None:
        """Release the files and the pipe. Readers that have not read everything get an error. Idempotent."""
        if not self.finished:
            self._lost = self._lost or "the program's output was discarded before its end"
        self._finish()
        self._close_source()
        for file in self._segments.values():
            file.close()
        self._segments.clear()
        self.kept_from = self.size

    def _at(self, offset: int, max_bytes: int) -> bytes:
        number, within = divmod(offset, SEGMENT_BYTES)
        return os.pread(self._segments[number].fileno(), min(max_bytes, SEGMENT_BYTES - within), within)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            number, within = divmod(self.size, SEGMENT_BYTES)
            if number not in self._segments:
                self._segments[number] = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  # kept open
            written = os.pwrite(self._segments[number].fileno(), view[: SEGMENT_BYTES - within], within)
            view = view[written:]
            self.size += written

    def _forget(self) -> None:
        while (self.kept_from // SEGMENT_BYTES + 1) * SEGMENT_BYTES <= self._furthest - KEPT_BYTES:
            number = self.kept_from // SEGMENT_BYTES
            self._segments.pop(number).close()
            self.kept_from = (number + 1) * SEGMENT_BYTES

    def _resume(self) -> None:
        if self._source is not None and not self._reading:
            asyncio.get_running_loop().add_reader(self._source, self._on_readable)
            self._reading = True

    def _pause(self) -> None:
        if self._source is not None and self._reading:
            asyncio.get_running_loop().remove_reader(self._source)
            self._reading = False

    def _expect_end(self, size: int) -> None:
        """End the stream if it still has `size` bytes, or if `LINGER_S` have passed; else check again later."""
        loop = asyncio.get_running_loop()
        assert self._ended_at is not None
        left = self._ended_at + LINGER_S - loop.time()
        if left <= 0 or (size == self.size and self._reading):
            self._finish()
            self._drop()
        else:
            self._timer = loop.call_later(min(QUIET_S, left), self._expect_end, self.size)

    def _drop(self) -> None:
        """Discard what is in the pipe of a stream that has ended, and repeat that until nobody has the pipe open."""
        if self._source is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._source)
        try:
            ended = not os.read(self._source, _CHUNK_BYTES)
        except BlockingIOError:
            loop.add_reader(self._source, self._drop)
            return
        except OSError:
            ended = True
        if ended:
            self._close_source()
        else:
            self._timer = loop.call_later(_DROP_PAUSE_S, self._drop)

    def _on_readable(self) -> None:
        if self.size - self._furthest >= WINDOW_BYTES:
            self._pause()
        else:
            self._take()

    def _take(self) -> int:
        """Move at most a chunk from the pipe to the disk; returns the number of bytes, 0 if there were none."""
        assert self._source is not None
        try:
            data = os.read(self._source, _CHUNK_BYTES)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EIO:  # the end of a terminal whose last program has ended
                self._lost = f"the program's output cannot be read: {error.strerror}"
            data = b""
        try:
            self._append(data)
        except OSError as error:  # the disk is full, or no descriptor is left
            self._lost = f"the program's output cannot be kept: {error.strerror}"
            data = b""
        if data:
            self._notify()
        else:
            self._finish()
            self._close_source()
        return len(data)

    def _finish(self) -> None:
        self._pause()
        self.finished = True
        self._notify()

    def _close_source(self) -> None:
        """Close the pipe. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._source is not None:
            asyncio.get_running_loop().remove_reader(self._source)
            os.close(self._source)
            self._source = None

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

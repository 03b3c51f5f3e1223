"""Keeps a stream of output on disk, addressable by offset; neither memory nor disk grows with what a job prints.

When nobody has read for a window's length the pipe is no longer emptied, and the job waits, as on any full pipe. What
was read long ago is forgotten, segment by segment: a reader that resumes after a broken connection is never that late.

A program may end while others that it has started still hold its pipe: a server in the background, a filter behind
`exec > >(…)`. What they print for a moment longer still belongs to the stream. After its end the pipe is emptied for as
long as anybody holds it, and what comes is dropped: a writer whose reader is gone would be killed by a signal.
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
QUIET_S = 1.0  # with its program ended and nothing printed for so long, a stream has ended
LINGER_S = 5.0  # and after so long even if others print on
_DROP_PAUSE_S = 0.05  # between two chunks that are dropped: a flood costs us next to nothing
_CHUNK_BYTES = 1024 * 1024
_MAX_PIPE_BYTES = 1024 * 1024  # what the kernel holds at most for an unprivileged user


class OutputForgottenError(Exception):
    """The offset lies before what is kept."""


class OutputLostError(Exception):
    """The stream does not end here: what came then could not be read or kept."""


class Spool:
    """One stream: filled from a pipe's or terminal's read end, read by any number of readers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._segments: dict[int, BinaryIO] = {}
        self._source: int | None = None
        self._reading = False
        self._furthest = 0
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None  # the next look at a pipe whose program has ended
        self._ended_at: float | None = None
        self.size = 0
        self.kept_from = 0
        self.finished = False
        self._lost = ""  # why the stream is not whole

    def fill_from(self, descriptor: int) -> None:
        """Take over the read end of a pipe."""
        os.set_blocking(descriptor, False)
        self._source = descriptor
        self._resume()

    async def read(self, offset: int, *, max_bytes: int = 1024 * 1024, pace: bool = True) -> bytes:
        """Wait for bytes at `offset` and return some; b"" is the end of the stream.

        Raises OutputForgottenError, and OutputLostError where output is missing instead of an end. A reader without
        `pace` does not let the job print on by having read.
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
        """The program has ended: take what is in the pipe now; the stream ends soon, even if others hold the pipe."""
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
        """Release the files and the pipe; who has not read everything is told so. Idempotent."""
        if not self.finished:
            self._lost = self._lost or "the program's output was let go of before its end"
        self._finish()
        self._let_go()
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
        """End the stream when nothing has come since it had `size` bytes, or when it has lasted long enough."""
        loop = asyncio.get_running_loop()
        assert self._ended_at is not None
        left = self._ended_at + LINGER_S - loop.time()
        if left <= 0 or (size == self.size and self._reading):
            self._finish()
            self._drop()
        else:
            self._timer = loop.call_later(min(QUIET_S, left), self._expect_end, self.size)

    def _drop(self) -> None:
        """Empty the pipe of a stream that has ended, again and again until nobody holds it."""
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
            self._let_go()
        else:
            self._timer = loop.call_later(_DROP_PAUSE_S, self._drop)

    def _on_readable(self) -> None:
        if self.size - self._furthest >= WINDOW_BYTES:
            self._pause()
        else:
            self._take()

    def _take(self) -> int:
        """Move what is in the pipe to the disk, at most a chunk; returns how many bytes it was."""
        assert self._source is not None
        try:
            data = os.read(self._source, _CHUNK_BYTES)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EIO:  # which a terminal says whose last program has ended
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
            self._let_go()
        return len(data)

    def _finish(self) -> None:
        self._pause()
        self.finished = True
        self._notify()

    def _let_go(self) -> None:
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

"""A run's events in a file on this container's disk: written once, read by any number of readers at their own pace.

The file holds what the run's log holds, so every reader sees the same bytes. A reader has one piece of the file in
memory at a time: slow readers and many readers cost no memory, and no reader waits for another.
"""

import asyncio
import hashlib
import os
import secrets
import tempfile
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable

from modal_app.contract.events import TerminalEvent
from modal_app.contract.proof import EventFacts
from modal_app.runs.batches import Batch, offset_after, terminal_of

_INDEX_EVERY_BYTES = 64 * 1024
_STEP_BYTES = 1024 * 1024


class SpoolBrokenError(Exception):
    """The spool gets no more events, though the run has not ended: its source failed, or the container shuts down."""


class Spool:
    """One run's events, from the first to the terminal one. `readers` counts who reads; `close` releases the file."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.key = secrets.token_hex(8)
        """Unique to this spool: a run that is opened twice has two spools with different keys."""
        self.last_seq = 0
        self.terminal: TerminalEvent | None = None
        self.readers = 0
        self._digest = hashlib.sha256()
        self._file = tempfile.TemporaryFile(prefix="run-")  # noqa: SIM115  # closed by `close`
        self._size = 0
        self._index: list[tuple[int, int]] = [(1, 0)]  # (seq, offset of its frame), about one entry for each 64 KiB
        self._failure: str | None = None
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def size(self) -> int:
        """How many bytes of the stream are in the spool."""
        return self._size

    @property
    def facts(self) -> EventFacts:
        """The length, digest and last event number of what is in the spool, as the archive's proof states them."""
        return EventFacts(last_seq=self.last_seq, bytes=self._size, sha256=self._digest.hexdigest())

    def append(self, batch: Batch) -> None:
        """Add the next events. Those that are here already, that leave a gap, or that follow the end are dropped."""
        if self.terminal is not None or self._closed or not batch.first <= self.last_seq + 1 <= batch.last:
            return
        frames = batch.frames
        if batch.first <= self.last_seq:
            frames = frames[offset_after(frames, self.last_seq) :]
        if self._size - self._index[-1][1] >= _INDEX_EVERY_BYTES:
            self._index.append((self.last_seq + 1, self._size))
        self._file.write(frames)
        self._file.flush()
        self._size += len(frames)
        self._digest.update(frames)
        self.last_seq = batch.last
        if batch.terminal:
            self.terminal = terminal_of(batch.frames)
        self._notify()

    def fail(self, reason: str) -> None:
        """Say that no more events will come, though the run has not ended: readers get SpoolBrokenError(reason)."""
        self._failure = reason
        self._notify()

    def piece(self, start: int, end: int) -> bytes:
        """The bytes from offset `start` up to `end`. Raises SpoolBrokenError when the spool is closed."""
        if self._closed:
            raise self._broken()
        return os.pread(self._file.fileno(), end - start, start)

    async def read(
        self, after: int = 0, *, take: "Callable[[Spool, int], bytes] | None" = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes of the stream after event number `after`, up to and including the terminal event.

        `take(spool, offset)` chooses each piece; without it, pieces have up to 1 MiB. Waits for events that have not
        come yet. Raises SpoolBrokenError when the rest will not come.
        """
        while self.last_seq < after and self._is_open():
            await self._changed.wait()
        offset = self._offset(after)
        while True:
            if offset < self._size:
                data = take(self, offset) if take else self.piece(offset, min(self._size, offset + _STEP_BYTES))
                offset += len(data)
                yield data
            elif self._is_open():
                await self._changed.wait()
            elif self.terminal is not None:
                return
            else:
                raise self._broken()

    async def reached(self, seq: int, *, timeout_s: float) -> None:
        """Wait until event `seq` or the terminal one is here. Raises TimeoutError, SpoolBrokenError."""
        async with asyncio.timeout(timeout_s):
            while self.last_seq < seq and self._is_open():
                await self._changed.wait()
        if self.last_seq < seq and self.terminal is None:
            raise self._broken()

    async def ended(self) -> TerminalEvent:
        """Wait for the terminal event. Raises SpoolBrokenError."""
        while self._is_open():
            await self._changed.wait()
        if self.terminal is None:
            raise self._broken()
        return self.terminal

    def close(self) -> None:
        """Release the file; readers that have not read to the end get SpoolBrokenError. Idempotent."""
        self._closed = True
        self._notify()
        self._file.close()

    def _broken(self) -> SpoolBrokenError:
        return SpoolBrokenError(self._failure or "the endpoint is shutting down")

    def _is_open(self) -> bool:
        return self.terminal is None and self._failure is None and not self._closed

    def _offset(self, after: int) -> int:
        """The offset at which event `after + 1` begins."""
        if after >= self.last_seq:
            return self._size
        at = bisect_right(self._index, after + 1, key=lambda entry: entry[0]) - 1
        start = self._index[at][1]
        end = self._index[at + 1][1] if at + 1 < len(self._index) else self._size
        return start + offset_after(self.piece(start, end), after)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

"""A run's events on this container's disk: filled once, read by any number of readers, each at its own pace.

What is here is what the log holds, so every reader sees the same bytes. A reader holds one piece of the file at a time:
neither a slow one nor many of them cost memory, and none waits for another.
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
    """What fills the spool has failed: how the run goes on is not known here."""


class Spool:
    """One run's events, from the first to the terminal one. `close` releases the file."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.key = secrets.token_hex(8)
        """Tells this spool from any other, of the same run, too."""
        self.last_seq = 0
        self.terminal: TerminalEvent | None = None
        self.readers = 0
        self._digest = hashlib.sha256()
        self._file = tempfile.TemporaryFile(prefix="run-")  # noqa: SIM115  # closed by `close`
        self._size = 0
        self._index: list[tuple[int, int]] = [(1, 0)]  # a sequence number and where its frame begins, some of them
        self._failure: str | None = None
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self._size

    @property
    def facts(self) -> EventFacts:
        """What an archive says of the bytes that are here."""
        return EventFacts(last_seq=self.last_seq, bytes=self._size, sha256=self._digest.hexdigest())

    def append(self, batch: Batch) -> None:
        """Take the next events; those that are here already, or come after the terminal one, are dropped."""
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
        """Tell readers that nothing more will come here, though the run has not ended."""
        self._failure = reason
        self._notify()

    def piece(self, start: int, end: int) -> bytes:
        """The bytes between two offsets."""
        return os.pread(self._file.fileno(), end - start, start)

    async def read(
        self, after: int = 0, *, take: "Callable[[Spool, int], bytes] | None" = None
    ) -> AsyncIterator[bytes]:
        """The bytes of the stream behind event `after`, up to and with the terminal event.

        `take` gives the next piece of a spool from an offset on; without it, pieces are good for copying.
        Raises SpoolBrokenError when the rest will not come.
        """
        while self.last_seq < after and self._goes_on():
            await self._changed.wait()
        offset = self._offset(after)
        while True:
            if offset < self._size:
                data = take(self, offset) if take else self.piece(offset, min(self._size, offset + _STEP_BYTES))
                offset += len(data)
                yield data
            elif self._goes_on():
                await self._changed.wait()
            elif self.terminal is not None:
                return
            else:
                raise self._broken()

    async def reached(self, seq: int, *, timeout_s: float) -> None:
        """Wait until event `seq` or the terminal one is here. Raises TimeoutError, SpoolBrokenError."""
        async with asyncio.timeout(timeout_s):
            while self.last_seq < seq and self._goes_on():
                await self._changed.wait()
        if self.last_seq < seq and self.terminal is None:
            raise self._broken()

    async def ended(self) -> TerminalEvent:
        """Wait for the terminal event. Raises SpoolBrokenError."""
        while self._goes_on():
            await self._changed.wait()
        if self.terminal is None:
            raise self._broken()
        return self.terminal

    def close(self) -> None:
        """Release the file; readers that are not done are told. Idempotent."""
        self._closed = True
        self._notify()
        self._file.close()

    def _broken(self) -> SpoolBrokenError:
        return SpoolBrokenError(self._failure or "the endpoint is shutting down")

    def _goes_on(self) -> bool:
        return self.terminal is None and self._failure is None and not self._closed

    def _offset(self, after: int) -> int:
        """Where the event behind `after` begins."""
        if after >= self.last_seq:
            return self._size
        at = bisect_right(self._index, after + 1, key=lambda entry: entry[0]) - 1
        start = self._index[at][1]
        end = self._index[at + 1][1] if at + 1 < len(self._index) else self._size
        return start + offset_after(os.pread(self._file.fileno(), end - start, start), after)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

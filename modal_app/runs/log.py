"""The log of a run: its batches, in a Modal Queue that every container can read.

A partition of the queue is a segment of the log; a log that outgrows one segment continues in the next. All readers see
the items of a partition in the same order and follow the same rule: a batch counts if it begins where the last counted
batch ended, and nothing counts after the terminal event. So all readers skip a batch that was put twice, or by a
container that had lost the run.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace

import modal
import modal.exception
import structlog

from modal_app.queue_items import Joiner, parts
from modal_app.runs.batches import ROLL, Batch, BrokenBatchError
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS, retrying

_log = structlog.get_logger(__name__)

MAX_SEGMENT_ITEMS = 4000  # a partition takes at most 5,000
MAX_SEGMENT_BYTES = 8 * 1024 * 1024  # a partition takes 64 MiB; one event may have 48
KEPT_S = 24 * 3600  # after a segment's last batch; the most that Modal allows
_FOLLOW_S = 24 * 3600.0  # a reader that has waited so long begins to follow anew
_RETRY_S = 0.2
_PUT_S = 10.0


class LogLostError(Exception):
    """A batch may not be in the log, because this container may no longer write to it."""


class LogRefusedError(Exception):
    """A batch is not in the log: the platform takes none like it, however often it is put."""


def partition(run_id: str, segment: int) -> str:
    """The name of the queue partition that holds a segment, counted from 0."""
    return f"{run_id}/{segment}"


class LogWriter:
    """Appends to one run's log, beginning in `segment`.

    `may_write` says whether this container still owns the run, as soon as it knows. It is asked before every attempt
    to put a batch, and once more after the successful one.
    """

    def __init__(
        self, queue: modal.Queue, run_id: str, *, may_write: Callable[[], Awaitable[bool]], segment: int = 0
    ) -> None:
        self._queue = queue
        self._run_id = run_id
        self._may_write = may_write
        self._segment = segment
        self._items = 0
        self._bytes = 0

    async def append(self, batch: Batch) -> None:
        """Return when the batch is in the log, where every container sees it. Raises LogLostError, LogRefusedError.

        Failures of the platform are tried again for as long as `may_write` allows.
        """
        if self._bytes and self._bytes + len(batch.frames) > MAX_SEGMENT_BYTES:
            await self._put([ROLL.encode()])
            self._roll()
        rolls = self._items >= MAX_SEGMENT_ITEMS and not batch.terminal
        items = parts(replace(batch, rolls=rolls).encode())
        self._items += len(items)
        self._bytes += len(batch.frames)
        await self._put(items)
        if rolls:
            self._roll()

    def _roll(self) -> None:
        self._segment += 1
        self._items = self._bytes = 0

    async def _put(self, items: list[bytes]) -> None:
        name = partition(self._run_id, self._segment)
        async for attempt in retrying(pause_s=_RETRY_S):
            with attempt:
                if not await self._may_write():
                    raise LogLostError("the run is no longer this container's")
                try:
                    await self._queue.put_many.aio(items, partition=name, timeout=_PUT_S, partition_ttl=KEPT_S)
                except (modal.exception.InvalidError, modal.exception.RequestSizeError) as error:
                    raise LogRefusedError(f"the platform takes no such batch: {error}"[:300]) from None
        if not await self._may_write():
            raise LogLostError("the run is no longer this container's")


class LogReader:
    """Reads one run's log from its beginning and skips batches that do not count.

    `last_seq` is the last event that was read, `segment` where the reader is, `ended` whether the end was read.
    """

    def __init__(self, queue: modal.Queue, run_id: str) -> None:
        self.last_seq = 0
        self.segment = 0
        self.ended = False
        self._queue = queue
        self._run_id = run_id

    async def follow(self, *, wait_s: float = _FOLLOW_S) -> AsyncIterator[Batch]:
        """Yield the batches that count, up to and including the terminal one.

        Ends early when no batch comes within `wait_s` seconds. Platform errors are raised.
        """
        while not self.ended:
            rolled = False
            joiner = Joiner()
            items = self._queue.iterate.aio(partition=partition(self._run_id, self.segment), item_poll_timeout=wait_s)
            async with aclosing(items):
                async for data in items:
                    whole = joiner.feed(data)
                    if whole is None:
                        continue
                    try:
                        batch = Batch.decode(whole)
                    except BrokenBatchError:
                        _log.error("log.broken_batch", run_id=self._run_id)
                        continue
                    if batch.first == self.last_seq + 1:
                        self.last_seq, self.ended = batch.last, batch.terminal
                        yield batch
                    if self.ended:
                        return
                    if batch.rolls:
                        rolled = True
                        break
            if not rolled:
                return
            self.segment += 1

    async def to_the_end(self) -> list[Batch]:
        """The batches that are in the log now, from where this reader stands. Platform errors are raised."""
        return [batch async for batch in self.follow(wait_s=0)]


async def clear(queue: modal.Queue, run_id: str) -> None:
    """Delete all segments of a run's log. Platform errors are ignored: Modal deletes the log by itself after a day."""
    segment = 0
    with suppress(*PLATFORM_ERRORS):
        while await queue.len.aio(partition=partition(run_id, segment)):
            await queue.clear.aio(partition=partition(run_id, segment))
            segment += 1

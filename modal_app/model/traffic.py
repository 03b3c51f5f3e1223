"""Exchanges with the model, on a queue that the gateway's containers share with the endpoint's. Two uses:

- Recording: the gateway appends each exchange of a run when it ends, and the run's archive takes them from here.
- Replay: a recording is put here under a replay id, and a run whose token names that id is answered from it.

A partition is deleted by itself an hour after its last exchange. A recording ends where it would grow beyond
MAX_RECORDED_BYTES; the run goes on without it.
"""

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, suppress

import modal
import structlog

from modal_app.model_gateway.recording import Exchange, Replay, dump_exchange, parse_exchange
from modal_app.queue_items import Joiner, parts
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS

_log = structlog.get_logger(__name__)

MAX_RECORDED_BYTES = 32 * 1024 * 1024  # of one run, unpacked; packed it is a fifth of that
MAX_ITEM_BYTES = 16 * 1024 * 1024  # of one exchange, unpacked; it holds the whole conversation up to there
_KEPT_S = 3600  # after the last exchange; a run is archived as soon as it has ended
_PUT_S = 5.0  # the end of the answer is held back for so long at most
_MAX_KNOWN = 1000


def of_run(run_id: str) -> str:
    """The name under which a run's exchanges are recorded."""
    return f"run/{run_id}"


def of_replay(replay_id: str) -> str:
    """The name of a recording to be replayed; it differs from every run's name, so no run can replay another's."""
    return f"replay/{replay_id}"


class Traffic:
    """Lists of exchanges, by the names of `of_run` and `of_replay`. Platform errors are raised."""

    def __init__(self, queue: modal.Queue) -> None:
        self._queue = queue

    async def append(self, name: str, exchanges: Iterable[Exchange]) -> None:
        """Append exchanges and return when other containers can read them."""
        for exchange in exchanges:
            packed = await asyncio.to_thread(_packed, exchange)
            await self._queue.put_many.aio(parts(packed), partition=name, timeout=_PUT_S, partition_ttl=_KEPT_S)

    async def read(self, name: str) -> list[Exchange]:
        """The exchanges that are there now, in the order in which they ended, up to MAX_RECORDED_BYTES in all.

        Those beyond that, or after one of more than MAX_ITEM_BYTES, are left out.
        """
        found: list[Exchange] = []
        size = 0
        async with aclosing(self._packed(name)) as items:
            async for packed in items:
                data = await asyncio.to_thread(_unpacked, packed)
                size += len(data)
                if not data or size > MAX_RECORDED_BYTES:
                    break
                found.append(parse_exchange(data))
        return found

    async def clear(self, name: str) -> None:
        """Delete the exchanges. Platform errors are ignored: the platform deletes them by itself later."""
        with suppress(*PLATFORM_ERRORS):
            await self._queue.clear.aio(partition=name)

    async def _packed(self, name: str) -> AsyncGenerator[bytes, None]:
        joiner = Joiner()
        async with aclosing(self._queue.iterate.aio(partition=name, item_poll_timeout=0)) as items:
            async for item in items:
                if (whole := joiner.feed(item)) is not None:
                    yield whole


class Recorder:
    """Records the exchanges that pass through one container, up to MAX_RECORDED_BYTES for each run."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._sizes: OrderedDict[str, int] = OrderedDict()

    async def __call__(self, run_id: str, exchange: Exchange) -> None:
        """Record one exchange, unless the run's recording has ended already. Platform errors are raised."""
        size = len(dump_exchange(exchange).encode())
        total = self._sizes.pop(run_id, 0) + size
        if size > MAX_ITEM_BYTES:
            total = MAX_RECORDED_BYTES + 1  # a recording may have no gap, so it ends before this exchange
        self._sizes[run_id] = total
        if len(self._sizes) > _MAX_KNOWN:
            self._sizes.popitem(last=False)
        if total > MAX_RECORDED_BYTES:
            _log.warning("model.not_recorded", run_id=run_id, reason="the recording is full")
            return
        await self._traffic.append(of_run(run_id), [exchange])


class Replays:
    """The replays in one container: each run has its own copy of the recording that it replays."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._known: OrderedDict[str, asyncio.Task[Replay]] = OrderedDict()

    async def __call__(self, run_id: str, replay_id: str) -> Replay:
        """The replay that answers the requests of run `run_id`, read once per run. Platform errors are raised."""
        if run_id not in self._known:
            self._known[run_id] = asyncio.create_task(self._read(replay_id))
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        try:
            return await asyncio.shield(self._known[run_id])
        except PLATFORM_ERRORS:
            self._known.pop(run_id, None)
            raise

    async def _read(self, replay_id: str) -> Replay:
        return Replay(await self._traffic.read(of_replay(replay_id)))


def _packed(exchange: Exchange) -> bytes:
    return zlib.compress(dump_exchange(exchange).encode())


def _unpacked(packed: bytes) -> bytes:
    """The exchange's JSON; empty when it has more than MAX_ITEM_BYTES."""
    reader = zlib.decompressobj()
    data = reader.decompress(packed, MAX_ITEM_BYTES)
    return b"" if reader.unconsumed_tail else data

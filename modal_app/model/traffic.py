"""What runs have said with the model, on a queue that gateway and endpoint share, each in a container of its own.

The gateway appends a run's exchanges as they end, and the run's archive takes them along. The other way, a recording is
laid there by whoever wants it replayed, and a run whose token names it is answered from it. A partition is forgotten by
itself; what does not fit any more is not recorded, and the run goes on.
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

MAX_RECORDED_BYTES = 32 * 1024 * 1024  # of one run: each exchange holds the whole conversation, packed to a fifth of it
MAX_ITEM_BYTES = 16 * 1024 * 1024  # of one exchange, unpacked
_KEPT_S = 3600  # after the last exchange: a run is archived when it has ended
_PUT_S = 5.0  # the answer's end waits for it
_MAX_KNOWN = 1000


def of_run(run_id: str) -> str:
    """The name of what a run has said."""
    return f"run/{run_id}"


def of_replay(replay_id: str) -> str:
    """The name of a recording that is to be replayed: nobody can ask for what another run has said."""
    return f"replay/{replay_id}"


class Traffic:
    """Exchanges by their names. Platform errors are raised."""

    def __init__(self, queue: modal.Queue) -> None:
        self._queue = queue

    async def append(self, name: str, exchanges: Iterable[Exchange]) -> None:
        """Return when they are there for others."""
        for exchange in exchanges:
            packed = await asyncio.to_thread(_packed, exchange)
            await self._queue.put_many.aio(parts(packed), partition=name, timeout=_PUT_S, partition_ttl=_KEPT_S)

    async def read(self, name: str) -> list[Exchange]:
        """What is there now, in the order in which it ended, as far as a recording may be long."""
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
        """Forget them; what fails here is forgotten later."""
        with suppress(*PLATFORM_ERRORS):
            await self._queue.clear.aio(partition=name)

    async def _packed(self, name: str) -> AsyncGenerator[bytes, None]:
        joiner = Joiner()
        async with aclosing(self._queue.iterate.aio(partition=name, item_poll_timeout=0)) as items:
            async for item in items:
                if (whole := joiner.feed(item)) is not None:
                    yield whole


class Recorder:
    """Keeps the exchanges of runs that pass through one container, each run's up to MAX_RECORDED_BYTES."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._sizes: OrderedDict[str, int] = OrderedDict()

    async def __call__(self, run_id: str, exchange: Exchange) -> None:
        """Keep one. Platform errors are raised."""
        size = len(dump_exchange(exchange).encode())
        total = self._sizes.pop(run_id, 0) + size
        if size > MAX_ITEM_BYTES:
            total = MAX_RECORDED_BYTES + 1  # a recording has no gap: it ends here
        self._sizes[run_id] = total
        if len(self._sizes) > _MAX_KNOWN:
            self._sizes.popitem(last=False)
        if total > MAX_RECORDED_BYTES:
            _log.warning("model.not_recorded", run_id=run_id, reason="the recording is full")
            return
        await self._traffic.append(of_run(run_id), [exchange])


class Replays:
    """The recordings that are replayed in one container, for each run its own."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._known: OrderedDict[str, asyncio.Task[Replay]] = OrderedDict()

    async def __call__(self, run_id: str, replay_id: str) -> Replay:
        """What stands in for the model in a run. Platform errors are raised."""
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
    """The exchange's JSON; nothing when it is too long."""
    reader = zlib.decompressobj()
    data = reader.decompress(packed, MAX_ITEM_BYTES)
    return b"" if reader.unconsumed_tail else data

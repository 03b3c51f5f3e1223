"""Queue RPCs: names, the items that `queues.py` stores, and waiting for new items."""

import asyncio
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import invalid
from workbench.local_cloud.base.wakeups import Arrivals
from workbench.local_cloud.objects.named_objects import Named
from workbench.local_cloud.objects.queues import MAX_TTL_S, Queues
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.ephemeral import Ephemeral
from workbench.local_cloud.store.names import Objects

MAX_WAIT_S = 60.0  # the SDK asks for 50 s at most and then asks again
_ITEMS_AT_ONCE = 100  # in an iteration's answer; its size is bounded by that of a partition


class QueueRpcs:
    """Handles the queue RPCs."""

    def __init__(self, database: Database, objects: Objects, ephemeral: Ephemeral, queues: Queues) -> None:
        self._db = database
        self._named = Named("queue", "qu", objects, ephemeral)
        self._queues = queues
        self._arrivals = Arrivals()

    # -- names -------------------------------------------------------------------------------------------------------

    async def QueueGetOrCreate(
        self, request: api_pb2.QueueGetOrCreateRequest, context: Any
    ) -> api_pb2.QueueGetOrCreateResponse:
        """Find or create a queue."""
        with self._db.transaction():
            queue_id, _ = self._named.get_or_create(
                request.deployment_name,
                environment=request.environment_name,
                creation_type=request.object_creation_type,
            )
        return api_pb2.QueueGetOrCreateResponse(queue_id=queue_id, metadata=self._metadata(queue_id))

    def _metadata(self, queue_id: str) -> api_pb2.QueueMetadata:
        name, made = self._named.describe(queue_id)
        return api_pb2.QueueMetadata(name=name, creation_info=made)

    async def QueueGetById(self, request: api_pb2.QueueGetByIdRequest, context: Any) -> api_pb2.QueueGetByIdResponse:
        """Look a queue up by id."""
        return api_pb2.QueueGetByIdResponse(queue_id=request.queue_id, metadata=self._metadata(request.queue_id))

    async def QueueList(self, request: api_pb2.QueueListRequest, context: Any) -> api_pb2.QueueListResponse:
        """List named queues, newest first, each with its number of items, or `total_size_limit` if it has more."""
        response = api_pb2.QueueListResponse(environment_name=request.environment_name)
        for queue_id, name, created_at in self._named.page(request.environment_name, request.pagination):
            partitions, items = self._queues.totals(queue_id)
            response.queues.add(
                name=name,
                created_at=created_at,
                num_partitions=partitions,
                total_size=min(items, request.total_size_limit) if request.total_size_limit > 0 else items,
                queue_id=queue_id,
                metadata=self._metadata(queue_id),
            )
        return response

    async def QueueHeartbeat(self, request: api_pb2.QueueHeartbeatRequest, context: Any) -> empty_pb2.Empty:
        """Keep an ephemeral queue alive."""
        self._named.heartbeat(request.queue_id)
        return empty_pb2.Empty()

    async def QueueDelete(self, request: api_pb2.QueueDeleteRequest, context: Any) -> empty_pb2.Empty:
        """Delete a queue and its items; calls that wait for an item fail at once."""
        self._drop(request.queue_id)
        return empty_pb2.Empty()

    def _drop(self, queue_id: str) -> None:
        self._named.delete(queue_id)
        self._arrivals.announce_where(lambda place: place[0] == queue_id)

    # -- items -------------------------------------------------------------------------------------------------------

    async def QueuePut(self, request: api_pb2.QueuePutRequest, context: Any) -> empty_pb2.Empty:
        """Append all items or none; on RESOURCE_EXHAUSTED the SDK retries until its own timeout."""
        self._queues.put(
            request.queue_id,
            request.partition_key,
            list(request.values),
            ttl_s=request.partition_ttl_seconds or MAX_TTL_S,
        )
        self._arrivals.announce((request.queue_id, request.partition_key))
        return empty_pb2.Empty()

    async def QueueGet(self, request: api_pb2.QueueGetRequest, context: Any) -> api_pb2.QueueGetResponse:
        """Remove and return items; waits for the first one as long as the request says, then returns none."""
        place = (request.queue_id, request.partition_key)
        deadline = _deadline(request.timeout)
        while (taken := self._queues.take(*place, request.n_values)) is None:
            if (left_s := deadline - _clock()) <= 0:
                return api_pb2.QueueGetResponse()
            await self._arrivals.wait(place, timeout_s=left_s)
        try:
            await context.send_initial_metadata(())  # fails when the caller has gone; returning the answer does not
        except BaseException as error:
            self._queues.put_back(taken)
            self._arrivals.announce(place)
            raise asyncio.CancelledError from error
        return api_pb2.QueueGetResponse(values=[item.value for item in taken.items])

    async def QueueNextItems(
        self, request: api_pb2.QueueNextItemsRequest, context: Any
    ) -> api_pb2.QueueNextItemsResponse:
        """Return the items after `last_entry_id` without removing them; waits for the first as the request says."""
        place = (request.queue_id, request.partition_key)
        deadline = _deadline(request.item_poll_timeout)
        last = _number(request.last_entry_id)
        while not (items := self._queues.after(*place, last, limit=_ITEMS_AT_ONCE)):
            if (left_s := deadline - _clock()) <= 0:
                break
            await self._arrivals.wait(place, timeout_s=left_s)
        return api_pb2.QueueNextItemsResponse(
            items=[api_pb2.QueueItem(value=item.value, entry_id=str(item.number)) for item in items]
        )

    async def QueueLen(self, request: api_pb2.QueueLenRequest, context: Any) -> api_pb2.QueueLenResponse:
        """Count the items of one partition or of all."""
        if request.total and request.partition_key:
            raise invalid("`total` counts all partitions: leave out `partition`, or ask for it without `total`.")
        if request.total:
            return api_pb2.QueueLenResponse(len=self._queues.totals(request.queue_id)[1])
        return api_pb2.QueueLenResponse(len=self._queues.length(request.queue_id, request.partition_key))

    async def QueueClear(self, request: api_pb2.QueueClearRequest, context: Any) -> empty_pb2.Empty:
        """Remove the items of one partition or of all."""
        if request.all_partitions and request.partition_key:
            raise invalid("`all` clears all partitions: leave out `partition`, or clear it without `all`.")
        if request.all_partitions:
            self._queues.clear_all(request.queue_id)
        else:
            self._queues.clear(request.queue_id, request.partition_key)
        return empty_pb2.Empty()

    async def tidy(self) -> None:
        """Delete ephemeral queues whose owner sends no heartbeats, and partitions that have expired."""
        for queue_id in self._named.abandoned():
            self._drop(queue_id)
        while self._queues.drop_expired():  # noqa: ASYNC110  # this waits for nothing, it lets other tasks run
            await asyncio.sleep(0)


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _deadline(timeout_s: float) -> float:
    """Return when a wait of `timeout_s` seconds ends, by `_clock`; at most `MAX_WAIT_S`, none for 0, less, or NaN."""
    return _clock() + (min(timeout_s, MAX_WAIT_S) if timeout_s > 0 else 0)


def _number(entry_id: str) -> int:
    if not entry_id:
        return 0
    if len(entry_id) > 18 or not (entry_id.isascii() and entry_id.isdigit()):
        raise invalid(f"last_entry_id must be empty or an entry_id of this queue, not {entry_id[:50]!r}.")
    return int(entry_id)

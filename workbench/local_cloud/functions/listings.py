"""What `modal function calls` and `modal function variants` list: inputs that are in memory, and variants of functions.

The times of inputs are real ones. Containers tell in real time when an output was made, so what an app's clock has told
is set back by as far as that clock is ahead.
"""

import heapq
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.base.errors import invalid
from workbench.local_cloud.functions.function_calls import Calls, Input
from workbench.local_cloud.functions.pool import Pools

_MAX_INPUTS = 20_000  # in one answer: as many as the SDK asks for at once
_VARIANTS_OF_A_PAGE = 1000

Status = api_pb2.FunctionCallInputStatus


class ListingRpcs:
    """Handles the RPCs that list what there is of a function. Each raises CloudError NOT_FOUND for an unknown one."""

    def __init__(self, apps: Apps, calls: Calls, pools: Pools, clocks: Clocks) -> None:
        self._apps = apps
        self._calls = calls
        self._pools = pools
        self._clocks = clocks

    async def FunctionCallFetch(
        self, request: api_pb2.FunctionCallFetchRequest, context: Any
    ) -> api_pb2.FunctionCallFetchResponse:
        """Return a function's inputs: the newest ones first, or those of a range of time in their order."""
        found = self._inputs(request.function_id, all_variants=request.all_variants)
        if request.HasField("range"):
            asked = request.range
            among = _between(found, asked.since, asked.until)
            chosen = heapq.nsmallest(min(asked.limit, _MAX_INPUTS), among, key=lambda item: item.made_at)
        else:
            chosen = heapq.nlargest(min(request.tail.count, _MAX_INPUTS), found, key=lambda item: item.made_at)
        return api_pb2.FunctionCallFetchResponse(function_call_inputs=map(self._described, chosen))

    async def FunctionCallCount(
        self, request: api_pb2.FunctionCallCountRequest, context: Any
    ) -> api_pb2.FunctionCallCountResponse:
        """Count a function's inputs in buckets of `bucket_secs` seconds, which begin at multiples of that."""
        if not request.bucket_secs:
            raise invalid("`bucket_secs` must be 1 or more.")
        found = self._inputs(request.function_id, all_variants=request.all_variants)
        width = request.bucket_secs
        counts = Counter(int(item.made_at) // width * width for item in _between(found, request.since, request.until))
        response = api_pb2.FunctionCallCountResponse()
        for begin, count in sorted(counts.items()):
            response.buckets.add(bucket_start_at=Timestamp(seconds=begin), count=count)
        return response

    async def FunctionListVariants(
        self, request: api_pb2.FunctionListVariantsRequest, context: Any
    ) -> api_pb2.FunctionListVariantsResponse:
        """Return a function's variants: up to 1,000 those with the most containers first, of more the newest first."""
        self._apps.function(request.function_id)
        ids = self._apps.variants(self._apps.base_id(request.function_id))
        response = api_pb2.FunctionListVariantsResponse()
        if 0 < request.limit <= _VARIANTS_OF_A_PAGE:
            busy = Counter(task.function_id for task in self._pools.tasks())
            page = heapq.nlargest(request.limit, ids, key=lambda function_id: busy[function_id])
            response.ordered_by_task_count = True
        else:
            after = request.cursor.function_id
            first = ids.index(after) + 1 if after in ids else 0
            page = ids[first : first + _VARIANTS_OF_A_PAGE]
            if first + len(page) < len(ids):
                response.next_cursor.function_id = page[-1]
        for function_id in page:
            options = self._apps.options(function_id)
            response.infos.add(
                function_id=function_id,
                serialized_params=self._apps.params(function_id),
                function_options=options if options.ByteSize() else None,
            )
        return response

    def _inputs(self, function_id: str, *, all_variants: bool) -> Iterator[Input]:
        """Return an iterator over the inputs of a function, or of its base function and all variants of that."""
        self._apps.function(function_id)
        base = self._apps.base_id(function_id)
        wanted = {base, *self._apps.variants(base)} if all_variants else {function_id}
        return (item for call in self._calls.all() if call.function_id in wanted for item in call.inputs.values())

    def _described(self, item: Input) -> api_pb2.FunctionCallInputInfo:
        info = api_pb2.FunctionCallInputInfo(
            function_call_id=item.call.call_id, enqueued_at=_timestamp(item.made_at), status=_status(item)
        )
        if item.method_name:
            info.service_method_name = item.method_name
        if item.task_id:
            info.container_id = item.task_id
        if item.started_at:
            ahead_s = self._clocks.of_function(item.call.function_id).time() - time.time()
            ended_at = item.output.output_created_at if item.output is not None else time.time()
            started_at = min(max(item.started_at - ahead_s, item.made_at), max(ended_at, item.made_at))
            info.started_at.CopyFrom(_timestamp(started_at))
            if item.output is not None:
                info.execution_time_seconds = max(ended_at - started_at, 0)
        return info


def _between(items: Iterable[Input], since: Timestamp, until: Timestamp) -> Iterator[Input]:
    first, end = since.ToNanoseconds() / 1e9, until.ToNanoseconds() / 1e9
    return (item for item in items if first <= item.made_at < end)


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def _status(item: Input) -> "api_pb2.FunctionCallInputStatus.ValueType":
    if item.output is None:
        return Status.FUNCTION_CALL_INPUT_STATUS_RUNNING if item.task_id else Status.FUNCTION_CALL_INPUT_STATUS_PENDING
    name = api_pb2.GenericResult.GenericStatus.Name(item.output.result.status)
    called = name.replace("GENERIC_STATUS_", "FUNCTION_CALL_INPUT_STATUS_")  # both have the same kinds of ends
    known = called in Status.DESCRIPTOR.values_by_name
    return Status.Value(called) if known else Status.FUNCTION_CALL_INPUT_STATUS_FAILURE

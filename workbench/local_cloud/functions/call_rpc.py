"""Call RPCs: make a call, add inputs to it, read its outputs, describe it, cancel it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.errors import CloudError, exhausted, not_found
from workbench.local_cloud.functions.function_calls import Call, Calls, Input
from workbench.local_cloud.functions.pool import Pools

_MAX_WAIT_S = 60.0
_MAX_INPUTS_OUTSTANDING = 1000  # per call; Modal's default
_MAX_SPAWNED_INPUTS = 1_000_000  # per call made by `spawn`; Modal's limit for pending inputs
_RELEASE_S = 60.0  # after the client has read an output for good; within it the answer may be repeated
_STATUS = api_pb2.GenericResult


class CallRpcs:
    """Handles the call RPCs. Calls are in memory only: they are lost when the cloud restarts."""

    def __init__(self, apps: Apps, calls: Calls, pools: Pools) -> None:
        self._apps = apps
        self._calls = calls
        self._pools = pools

    async def FunctionMap(self, request: api_pb2.FunctionMapRequest, context: Any) -> api_pb2.FunctionMapResponse:
        """Make a call and queue the inputs that came with the request.

        The answer says that the client must not retry inputs: that is done here, by the function's policy.
        """
        function = self._apps.function(request.function_id)
        call = self._calls.create(
            request.function_id,
            request.function_call_invocation_type,
            parent_input_id=request.parent_input_id,
            open=request.function_call_type == api_pb2.FUNCTION_CALL_TYPE_MAP,
        )
        response = api_pb2.FunctionMapResponse(
            function_call_id=call.call_id,
            function_call_jwt=call.call_id,
            retry_policy=function.retry_policy,
            sync_client_retries_enabled=False,
            max_inputs_outstanding=_MAX_INPUTS_OUTSTANDING,
        )
        response.pipelined_inputs.extend(self._queue(call, request.pipelined_inputs))
        return response

    async def FunctionPutInputs(
        self, request: api_pb2.FunctionPutInputsRequest, context: Any
    ) -> api_pb2.FunctionPutInputsResponse:
        """Queue more inputs of a call; an index that the call has already is skipped, since the request is a retry."""
        call = self._calls.get(request.function_call_id)
        return api_pb2.FunctionPutInputsResponse(inputs=self._queue(call, request.inputs))

    def _queue(self, call: Call, items: Any) -> list[api_pb2.FunctionPutInputsResponseItem]:
        waiting = len(call.inputs) - len(call.outputs)
        spawned = call.invocation == api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC
        if waiting + len(items) > (_MAX_SPAWNED_INPUTS if spawned else 2 * _MAX_INPUTS_OUTSTANDING):
            raise exhausted(
                f"The call {call.call_id} has {waiting} inputs without an output, and {len(items)} more would exceed "
                "its limit: read its outputs first."
            )
        answers = []
        for item in items:
            queued = call.by_idx.get(item.idx)
            if queued is None:
                queued = call.add(item.idx, item.input)
                self._pools.submit(queued)
            answers.append(
                api_pb2.FunctionPutInputsResponseItem(idx=item.idx, input_id=queued.input_id, input_jwt=queued.input_id)
            )
        return answers

    async def FunctionFinishInputs(self, request: api_pb2.FunctionFinishInputsRequest, context: Any) -> empty_pb2.Empty:
        """Record that a call gets no further inputs."""
        self._calls.get(request.function_call_id).close_inputs()
        return empty_pb2.Empty()

    async def FunctionGetOutputs(
        self, request: api_pb2.FunctionGetOutputsRequest, context: Any
    ) -> api_pb2.FunctionGetOutputsResponse:
        """Wait for outputs of a call: those of a range of input indices, or those after `last_entry_id`.

        With `clear_on_success` the client needs them no more: they are freed after 60 s. Without a range this means all
        outputs of a map, which then gets no further inputs.
        """
        call = self._calls.get(request.function_call_id)
        timeout_s = min(max(request.timeout, 0), _MAX_WAIT_S)
        most = request.max_values or _MAX_INPUTS_OUTSTANDING
        after = int(request.last_entry_id) if request.last_entry_id.isdigit() else 0
        if request.HasField("start_idx"):
            first, last = request.start_idx, max(request.end_idx, request.start_idx)
            if first == last and (one := call.by_idx.get(first)) is not None and one.released:
                raise not_found(f"The output of {one.input_id} was read by its caller, and is kept no longer.")
            await call.wait_until(lambda: bool(call.finished(first, last)), timeout_s=timeout_s)
            found = call.finished(first, last)[:most]
        else:
            if request.clear_on_success:
                call.close_inputs()
            await call.wait_until(lambda: len(call.outputs) > after, timeout_s=timeout_s)
            found = call.outputs[after : after + most]
        if request.clear_on_success:
            done = found if request.HasField("start_idx") else list(call.outputs)
            asyncio.get_running_loop().call_later(_RELEASE_S, _release, done)
        last = after + len(found)
        found = [item for item in found if not item.released]
        return api_pb2.FunctionGetOutputsResponse(
            last_entry_id=str(last),
            num_unfinished_inputs=len(call.inputs) - len(call.outputs),
            idxs=[item.idx for item in found],
            outputs=[_output(item) for item in found],
        )

    async def FunctionCallGetDataOut(
        self, request: api_pb2.FunctionCallGetDataRequest, context: Any
    ) -> AsyncIterator[api_pb2.DataChunk]:
        """Stream what a generator function yields."""
        async for chunk in self._calls.get(request.function_call_id).data_out.read(after=request.last_index):
            yield chunk

    async def FunctionCallCancel(self, request: api_pb2.FunctionCallCancelRequest, context: Any) -> empty_pb2.Empty:
        """Cancel a call; with `terminate_containers`, stop the containers that work on it, too."""
        call = self._calls.get(request.function_call_id)
        busy = {item.task_id for item in call.inputs.values() if item.output is None and item.task_id}
        self._pools.cancel(call)
        if request.terminate_containers:
            await asyncio.gather(*map(self._stop, busy))
        return empty_pb2.Empty()

    async def _stop(self, task_id: str) -> None:
        with suppress(CloudError):  # it has ended meanwhile
            await self._pools.stop_task(task_id)

    async def FunctionCallFromId(
        self, request: api_pb2.FunctionCallFromIdRequest, context: Any
    ) -> api_pb2.FunctionCallFromIdResponse:
        """Find a call by its id."""
        call = self._calls.get(request.function_call_id)
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.call_id,
            num_inputs=len(call.inputs),
            metadata=api_pb2.FunctionCallHandleMetadata(
                app_id=self._apps.app_of(call.function_id).app_id, function_id=call.function_id
            ),
        )

    async def FunctionCallGetInfo(
        self, request: api_pb2.FunctionCallGetInfoRequest, context: Any
    ) -> api_pb2.FunctionCallGetInfoResponse:
        """Return how many inputs of a call are pending, and how many have ended in which way."""
        return api_pb2.FunctionCallGetInfoResponse(info=_info(self._calls.get(request.function_call_id)))

    async def FunctionCallList(
        self, request: api_pb2.FunctionCallListRequest, context: Any
    ) -> api_pb2.FunctionCallListResponse:
        """List the calls of a function that are still in memory, newest first."""
        self._apps.function(request.function_id)
        calls = reversed(self._calls.of_function(request.function_id))
        return api_pb2.FunctionCallListResponse(function_calls=[_info(call) for call in calls])

    async def FunctionGetCallGraph(
        self, request: api_pb2.FunctionGetCallGraphRequest, context: Any
    ) -> api_pb2.FunctionGetCallGraphResponse:
        """Return a call and its inputs, with all calls that these have made, and so on."""
        response = api_pb2.FunctionGetCallGraphResponse()
        for call in self._calls.below(self._calls.get(request.function_call_id)):
            function = self._apps.function(call.function_id)
            response.function_calls.add(
                function_call_id=call.call_id,
                parent_input_id=call.parent_input_id,
                function_name=function.function_name,
                module_name=function.module_name,
            )
            for item in call.inputs.values():
                response.inputs.add(
                    input_id=item.input_id,
                    status=_status(item),
                    function_call_id=call.call_id,
                    task_id=item.task_id,
                )
        return response


def _release(items: Iterable[Input]) -> None:
    for item in items:
        item.release()


def _output(item: Input) -> api_pb2.FunctionGetOutputsItem:
    assert item.output is not None
    return api_pb2.FunctionGetOutputsItem(
        result=item.output.result,
        idx=item.idx,
        input_id=item.input_id,
        data_format=item.output.data_format,
        task_id=item.task_id,
        input_started_at=item.started_at,
        output_created_at=item.output.output_created_at,
        retry_count=0,  # counts the client's own retries; with another number it would drop the output as stale
    )


def _status(item: Input) -> "api_pb2.GenericResult.GenericStatus.ValueType":
    return item.output.result.status if item.output is not None else _STATUS.GENERIC_STATUS_UNSPECIFIED


def _info(call: Call) -> api_pb2.FunctionCallInfo:
    count = Counter(_status(item) for item in call.inputs.values())
    named = (
        _STATUS.GENERIC_STATUS_UNSPECIFIED,
        _STATUS.GENERIC_STATUS_SUCCESS,
        _STATUS.GENERIC_STATUS_TIMEOUT,
        _STATUS.GENERIC_STATUS_TERMINATED,
    )
    pending, succeeded, timed_out, cancelled = (
        api_pb2.InputCategoryInfo(total=count.pop(status, 0)) for status in named
    )
    return api_pb2.FunctionCallInfo(
        function_call_id=call.call_id,
        created_at=call.created_at,
        total_inputs=len(call.inputs),
        pending_inputs=pending,
        succeeded_inputs=succeeded,
        timeout_inputs=timed_out,
        cancelled_inputs=cancelled,
        failed_inputs=api_pb2.InputCategoryInfo(total=sum(count.values())),
    )

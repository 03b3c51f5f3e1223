"""The RPCs that a function container's own client makes.

Who calls is known from its task's secret, never from the request.
"""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.apps.app_logs import AppLogs, Origin
from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.errors import CloudError, Reason
from workbench.local_cloud.functions.function_calls import Call, Calls
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.server.callers import caller

_MAX_BATCH, _MAX_LINGER_S = 1000, 600.0  # the SDK's own bounds


class ContainerRpcs:
    """Gives containers their inputs and takes their outputs."""

    def __init__(self, apps: Apps, calls: Calls, pools: Pools, logs: AppLogs) -> None:
        self._apps = apps
        self._calls = calls
        self._pools = pools
        self._logs = logs

    async def ContainerHello(self, request: Any, context: Any) -> empty_pb2.Empty:
        """Note that a container is up."""
        self._pools.said_hello(_task_id())
        return empty_pb2.Empty()

    async def ContainerHeartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest, context: Any
    ) -> api_pb2.ContainerHeartbeatResponse:
        """Hold the call until there is something to cancel."""
        cancelled = await self._pools.next_cancellations(_task_id())
        if not cancelled:
            return api_pb2.ContainerHeartbeatResponse()
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=api_pb2.CancelInputEvent(input_ids=cancelled))

    async def FunctionGetInputs(
        self, request: api_pb2.FunctionGetInputsRequest, context: Any
    ) -> api_pb2.FunctionGetInputsResponse:
        """Hold the call until there is an input, or tell a draining container to stop."""
        task_id = _task_id()
        await self._pools.settle_output(task_id)  # what was printed until now belongs to no input that comes now
        taken = await self._pools.take_inputs(
            task_id,
            batch_size=min(request.batch_max_size, _MAX_BATCH),
            linger_s=min(request.batch_linger_ms / 1000, _MAX_LINGER_S),
        )
        response = api_pb2.FunctionGetInputsResponse()
        for item in taken:
            response.inputs.add(
                input_id=item.input_id,
                input=item.payload,
                function_call_id=item.call.call_id,
                function_call_invocation_type=item.call.invocation,
                retry_count=item.retry_count,
                function_map_idx=item.idx,
            )
        if not taken and self._pools.task(task_id).draining:
            response.inputs.add(kill_switch=True)
        return response

    async def FunctionCallGetDataIn(
        self, request: api_pb2.FunctionCallGetDataRequest, context: Any
    ) -> AsyncIterator[api_pb2.DataChunk]:
        """Stream what the caller sends to the container that works on the call."""
        async for chunk in self._own_call(request.function_call_id).data_in.read(after=request.last_index):
            yield chunk

    async def FunctionCallPutDataOut(
        self, request: api_pb2.FunctionCallPutDataRequest, context: Any
    ) -> empty_pb2.Empty:
        """Take what the container yields; the call is held while the reader is a window behind."""
        call = self._own_call(request.function_call_id)
        for chunk in request.data_chunks:
            await call.data_out.put(chunk)
        return empty_pb2.Empty()

    async def FunctionPutOutputs(self, request: api_pb2.FunctionPutOutputsRequest, context: Any) -> empty_pb2.Empty:
        """Take results; what was printed for them is in the log before anybody is told of them."""
        await self._pools.settle_output(_task_id(), *(output.input_id for output in request.outputs))
        for output in request.outputs:
            self._pools.put_output(_task_id(), output)
        return empty_pb2.Empty()

    async def FunctionGetDynamicConcurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, context: Any
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        """Let a container use all the concurrency that its function allows."""
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    async def TaskResult(self, request: api_pb2.TaskResultRequest, context: Any) -> empty_pb2.Empty:
        """A container says how it ended; one that could not start fails what waits for it."""
        task = self._pools.task(_task_id())
        failed = (api_pb2.GenericResult.GENERIC_STATUS_FAILURE, api_pb2.GenericResult.GENERIC_STATUS_INIT_FAILURE)
        if request.result.status in failed:
            self._logs.append(
                self._apps.app_of(task.function_id).app_id,
                [(request.result.traceback or request.result.exception) + "\n"],
                fd=api_pb2.FILE_DESCRIPTOR_STDERR,
                origin=Origin(task.task_id, task.function_id),
            )
            self._pools.failed_to_start(task.task_id, request.result)
        return empty_pb2.Empty()

    async def ContainerLog(self, request: api_pb2.ContainerLogRequest, context: Any) -> empty_pb2.Empty:
        """Take log lines that the client sends itself."""
        task = self._pools.task(_task_id())
        for entry in request.logs:
            self._logs.append(
                self._apps.app_of(task.function_id).app_id,
                [entry.data],
                fd=entry.file_descriptor,
                origin=Origin(task.task_id, task.function_id, entry.function_call_id, entry.input_id),
            )
        return empty_pb2.Empty()

    def _own_call(self, call_id: str) -> Call:
        call = self._calls.get(call_id)
        if self._pools.task(_task_id()).function_id != call.function_id:
            raise CloudError(Reason.PERMISSION_DENIED, "This call belongs to another function.")
        return call


def _task_id() -> str:
    task_id = caller.get().task_id
    if caller.get().kind != "container" or task_id is None:
        raise CloudError(Reason.PERMISSION_DENIED, "Only a function container may call this.")
    return task_id

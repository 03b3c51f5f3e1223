"""The RPCs of a function container's client. Which container calls is known from its secret, not from the request."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.apps.app_logs import AppLogs, Origin
from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.errors import CloudError, Reason
from workbench.local_cloud.functions.function_calls import Call, Calls
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.functions.task import Task
from workbench.local_cloud.server.callers import caller

_MAX_BATCH, _MAX_LINGER_S = 1000, 600.0  # the SDK's own limits


class ContainerRpcs:
    """Handles the RPCs that give containers their inputs and take their outputs."""

    def __init__(self, apps: Apps, calls: Calls, pools: Pools, logs: AppLogs) -> None:
        self._apps = apps
        self._calls = calls
        self._pools = pools
        self._logs = logs

    async def ContainerHello(self, request: Any, context: Any) -> empty_pb2.Empty:
        """Record that a container's client has started."""
        self._pools.said_hello(_task_id())
        return empty_pb2.Empty()

    async def ContainerHeartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest, context: Any
    ) -> api_pb2.ContainerHeartbeatResponse:
        """Wait for inputs to cancel and return their ids; after 14.5 s, return none."""
        cancelled = await self._pools.next_cancellations(_task_id())
        if not cancelled:
            return api_pb2.ContainerHeartbeatResponse()
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=api_pb2.CancelInputEvent(input_ids=cancelled))

    async def FunctionGetInputs(
        self, request: api_pb2.FunctionGetInputsRequest, context: Any
    ) -> api_pb2.FunctionGetInputsResponse:
        """Wait for inputs and return them; tell a draining container to stop. After 50 s, return none."""
        task_id = _task_id()
        await self._pools.settle_output(task_id)  # so that earlier output is not logged as that of the new inputs
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
        """Stream what a web call's client sends, to the container that works on the call; nothing after its end."""
        call = self._own_call(request.function_call_id)
        if call is None:
            return
        async for chunk in call.data_in.read(after=request.last_index):
            yield chunk

    async def FunctionCallPutDataOut(
        self, request: api_pb2.FunctionCallPutDataRequest, context: Any
    ) -> empty_pb2.Empty:
        """Take what a container yields; waits while the reader is 4 MiB behind. After the call's end it is dropped."""
        call = self._own_call(request.function_call_id)
        if call is not None:
            for chunk in request.data_chunks:
                await call.data_out.put(chunk)
        return empty_pb2.Empty()

    async def FunctionPutOutputs(self, request: api_pb2.FunctionPutOutputsRequest, context: Any) -> empty_pb2.Empty:
        """Take the outputs of inputs. What was printed for them is in the log before their callers get them."""
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
        """Take a container's own result; when it could not start, the function's waiting inputs fail with that."""
        task = self._pools.task(_task_id())
        failed = (api_pb2.GenericResult.GENERIC_STATUS_FAILURE, api_pb2.GenericResult.GENERIC_STATUS_INIT_FAILURE)
        if request.result.status in failed:
            text = (request.result.traceback or request.result.exception) + "\n"
            self._append(task, text, api_pb2.FILE_DESCRIPTOR_STDERR)
            self._pools.failed_to_start(task.task_id, request.result)
        return empty_pb2.Empty()

    async def ContainerLog(self, request: api_pb2.ContainerLogRequest, context: Any) -> empty_pb2.Empty:
        """Append log lines that the client sends by itself."""
        task = self._pools.task(_task_id())
        for entry in request.logs:
            self._append(task, entry.data, entry.file_descriptor, entry.function_call_id, entry.input_id)
        return empty_pb2.Empty()

    def _append(self, task: Task, text: str, fd: int, call_id: str = "", input_id: str = "") -> None:
        """Append a text to the log of a container's app, or to that of the build for which it runs."""
        if task.own is not None:
            if task.container is not None:
                task.container.on_output(fd, input_id, [text])
            return
        origin = Origin(task.task_id, task.function_id, call_id, input_id)
        self._logs.append(self._apps.app_of(task.function_id).app_id, [text], fd=fd, origin=origin)

    def _own_call(self, call_id: str) -> Call | None:
        """Return a call of this container's function; None for one that is kept no longer."""
        task = self._pools.task(_task_id())
        call = self._calls.find(call_id)
        if call is not None and task.function_id != call.function_id:
            raise CloudError(
                Reason.PERMISSION_DENIED, f"The call {call.call_id} belongs to another function than this container's."
            )
        return call


def _task_id() -> str:
    task_id = caller.get().task_id
    if caller.get().kind != "container" or task_id is None:
        raise CloudError(Reason.PERMISSION_DENIED, "Only a function container may make this call, not a client.")
    return task_id

"""Function RPCs for those who deploy and call: create, look up, call, and read outputs."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.apps import Apps
from workbench.local_cloud.functions.calls import Calls
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.rpc.failures import invalid, not_found

MAX_OBJECT_BYTES = 2 * 1024 * 1024  # larger values travel as blobs
_MAX_WAIT_S = 60.0


class WebIngress(Protocol):
    """What serves web functions."""

    async def serve(self, function_id: str) -> str:
        """Serve a function and return its URL."""
        ...

    def url(self, function_id: str) -> str:
        """A served function's URL, or an empty string."""
        ...


class FunctionRpcs:
    """Answers about functions and their calls."""

    def __init__(self, apps: Apps, calls: Calls, pools: Pools, web: WebIngress) -> None:
        self._apps = apps
        self._calls = calls
        self._pools = pools
        self._web = web

    async def FunctionPrecreate(
        self, request: api_pb2.FunctionPrecreateRequest, context: Any
    ) -> api_pb2.FunctionPrecreateResponse:
        """Reserve an id so that functions can refer to one another."""
        definition = api_pb2.Function(
            function_name=request.function_name,
            function_type=request.function_type,
            method_definitions=request.method_definitions,
            function_schema=request.function_schema,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        function_id = self._apps.precreate_function(
            request.app_id,
            name=request.function_name,
            existing_id=request.existing_function_id,
            definition=definition,
        )
        url = ""
        if request.webhook_config.type:
            url = await self._web.serve(function_id)
        return api_pb2.FunctionPrecreateResponse(
            function_id=function_id, handle_metadata=handle_metadata(self._apps, function_id, url, definition)
        )

    async def FunctionCreate(
        self, request: api_pb2.FunctionCreateRequest, context: Any
    ) -> api_pb2.FunctionCreateResponse:
        """Define a function. What this machine cannot give is refused by name."""
        if request.HasField("function_data"):
            raise invalid("GPUs are not available on the local cloud.")
        function = request.function
        if function.resources.gpu_config.type or function.resources.gpu_config.gpu_type:
            raise invalid("GPUs are not available on the local cloud.")
        if function.webhook_config.type not in (
            api_pb2.WEBHOOK_TYPE_UNSPECIFIED,
            api_pb2.WEBHOOK_TYPE_ASGI_APP,
            api_pb2.WEBHOOK_TYPE_FUNCTION,
            api_pb2.WEBHOOK_TYPE_WSGI_APP,
        ):
            raise invalid("web_server functions are not implemented by the local cloud; use asgi_app.")
        if function.is_server:
            raise invalid("modal.Server is not implemented by the local cloud; use asgi_app.")
        function_id = self._apps.define_function(request.app_id, request.existing_function_id, function)
        url = await self._web.serve(function_id) if function.webhook_config.type else ""
        if url:
            function.web_url = url
            self._apps.define_function(request.app_id, function_id, function)
        return api_pb2.FunctionCreateResponse(
            function_id=function_id,
            function=function,
            function_data=function_data(function),
            handle_metadata=handle_metadata(self._apps, function_id, url),
        )

    async def FunctionGet(self, request: api_pb2.FunctionGetRequest, context: Any) -> api_pb2.FunctionGetResponse:
        """Look a deployed function up by its app's name and its own."""
        app = self._apps.find(request.app_name, environment=request.environment_name)
        function_id = app.function_ids.get(request.object_tag) if app is not None else None
        if function_id is None:
            raise not_found(f"Function '{request.object_tag}' of app '{request.app_name}' not found.")
        return api_pb2.FunctionGetResponse(
            function_id=function_id,
            function=function_data(self._apps.function(function_id)),
            handle_metadata=handle_metadata(self._apps, function_id, self._web.url(function_id)),
        )

    async def FunctionMap(self, request: api_pb2.FunctionMapRequest, context: Any) -> api_pb2.FunctionMapResponse:
        """Open a call and queue the inputs that came with it."""
        function = self._apps.function(request.function_id)
        call = self._calls.create(request.function_id, request.function_call_invocation_type)
        response = api_pb2.FunctionMapResponse(
            function_call_id=call.call_id, retry_policy=function.retry_policy, max_inputs_outstanding=1000
        )
        for item in request.pipelined_inputs:
            queued = call.add(item.idx, item.input)
            self._pools.submit(queued)
            response.pipelined_inputs.add(idx=item.idx, input_id=queued.input_id, input_jwt=queued.input_id)
        return response

    async def FunctionPutInputs(
        self, request: api_pb2.FunctionPutInputsRequest, context: Any
    ) -> api_pb2.FunctionPutInputsResponse:
        """Queue more inputs of an open call."""
        call = self._calls.get(request.function_call_id)
        response = api_pb2.FunctionPutInputsResponse()
        for item in request.inputs:
            queued = call.add(item.idx, item.input)
            self._pools.submit(queued)
            response.inputs.add(idx=item.idx, input_id=queued.input_id, input_jwt=queued.input_id)
        return response

    async def FunctionGetOutputs(
        self, request: api_pb2.FunctionGetOutputsRequest, context: Any
    ) -> api_pb2.FunctionGetOutputsResponse:
        """Wait for outputs that came after the last one seen."""
        call = self._calls.get(request.function_call_id)
        after = int(request.last_entry_id) if request.last_entry_id.isdigit() else 0
        await call.wait_for_output(after=after, timeout_s=min(max(request.timeout, 0), _MAX_WAIT_S))
        found = call.outputs[after : after + (request.max_values or 1000)]
        response = api_pb2.FunctionGetOutputsResponse(
            last_entry_id=str(after + len(found)), num_unfinished_inputs=len(call.inputs) - len(call.outputs)
        )
        for item in found:
            assert item.output is not None
            response.idxs.append(item.idx)
            response.outputs.add(
                result=item.output.result,
                idx=item.idx,
                input_id=item.input_id,
                data_format=item.output.data_format,
                task_id=item.task_id,
                input_started_at=item.started_at,
                output_created_at=item.output.output_created_at,
                retry_count=item.retry_count,
            )
        return response

    async def FunctionCallGetDataOut(
        self, request: api_pb2.FunctionCallGetDataRequest, context: Any
    ) -> AsyncIterator[api_pb2.DataChunk]:
        """Read what a generator yields."""
        async for chunk in self._calls.get(request.function_call_id).data_out.read(after=request.last_index):
            yield chunk

    async def FunctionCallCancel(self, request: api_pb2.FunctionCallCancelRequest, context: Any) -> empty_pb2.Empty:
        """Cancel a call."""
        self._pools.cancel(self._calls.get(request.function_call_id))
        return empty_pb2.Empty()

    async def FunctionGetCurrentStats(
        self, request: api_pb2.FunctionGetCurrentStatsRequest, context: Any
    ) -> api_pb2.FunctionStats:
        """Count a function's containers."""
        tasks = [task for task in self._pools.tasks() if task.function_id == request.function_id]
        return api_pb2.FunctionStats(
            num_total_tasks=len(tasks), num_running_inputs=sum(len(task.inputs) for task in tasks)
        )


def function_data(function: api_pb2.Function) -> api_pb2.FunctionData:
    """The same definition in the shape that the SDK reads back, whose one ranked function is the definition itself."""
    data = api_pb2.FunctionData()
    for field, value in function.ListFields():
        target = api_pb2.FunctionData.DESCRIPTOR.fields_by_name.get(field.name)
        if target is not None and target.type == field.type:
            if target.is_repeated or target.message_type is not None:
                getattr(data, field.name).MergeFrom(value)
            else:
                setattr(data, field.name, value)
    data.ranked_functions.add(rank=0, function=function)
    return data


def handle_metadata(
    apps: Apps, function_id: str, web_url: str, definition: api_pb2.Function | None = None
) -> api_pb2.FunctionHandleMetadata:
    """What the SDK must know of a function to call it."""
    function = definition if definition is not None else apps.function(function_id)
    return api_pb2.FunctionHandleMetadata(
        function_name=function.function_name,
        function_type=function.function_type,
        web_url=web_url,
        is_method=function.is_method,
        definition_id=apps.definition_id(function_id),
        class_parameter_info=function.class_parameter_info,
        function_schema=function.function_schema,
        max_object_size_bytes=MAX_OBJECT_BYTES,
        supported_input_formats=function.supported_input_formats,
        supported_output_formats=function.supported_output_formats,
        app_id=apps.app_of(function_id).app_id,
    )

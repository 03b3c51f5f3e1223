"""Function RPCs: define functions and classes, look them up, bind parameters and options, and set how they scale."""

from typing import Any, Protocol

from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import App, Apps, no_function
from workbench.local_cloud.apps.deployment_versions import Deployments
from workbench.local_cloud.apps.function_handles import handle_metadata
from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.functions import schedules
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.server.unsupported import (
    NO_GPU,
    refuse_function_options,
    refuse_variant_options,
    refuse_web_options,
)
from workbench.local_cloud.workspace.proxies import check_proxy


class WebIngress(Protocol):
    """The HTTP ingress of web functions."""

    async def serve(self, function_id: str, method: str = "") -> str:
        """Serve a function, or a method of a class, and return its URL."""
        ...

    def url(self, function_id: str, method: str = "") -> str:
        """Return a served function's URL, or an empty string when it is not served."""
        ...


class FunctionRpcs:
    """Handles the function RPCs."""

    def __init__(self, apps: Apps, deployments: Deployments, pools: Pools, web: WebIngress) -> None:
        self._apps = apps
        self._deployments = deployments
        self._pools = pools
        self._web = web

    async def FunctionPrecreate(
        self, request: api_pb2.FunctionPrecreateRequest, context: Any
    ) -> api_pb2.FunctionPrecreateResponse:
        """Reserve a function's id before it is defined, so that functions can refer to one another."""
        definition = api_pb2.Function(
            function_name=request.function_name,
            function_type=request.function_type,
            webhook_config=request.webhook_config,
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
        if request.webhook_config.type:
            await self._web.serve(function_id)
        await self._serve_methods(function_id, definition)
        return api_pb2.FunctionPrecreateResponse(
            function_id=function_id, handle_metadata=self._handle(function_id, definition)
        )

    async def _serve_methods(self, function_id: str, function: api_pb2.Function) -> None:
        """Serve the web methods of a class, and store their URLs in its definition."""
        for method, definition in function.method_definitions.items():
            if definition.webhook_config.type:
                refuse_web_options(definition.webhook_config)
                definition.web_url = await self._web.serve(function_id, method)

    def _handle(self, function_id: str, definition: api_pb2.Function | None = None) -> api_pb2.FunctionHandleMetadata:
        return handle_metadata(self._apps, function_id, self._web.url(self._apps.base_id(function_id)), definition)

    async def FunctionCreate(
        self, request: api_pb2.FunctionCreateRequest, context: Any
    ) -> api_pb2.FunctionCreateResponse:
        """Define a function. Options that are not implemented are refused by name."""
        if request.HasField("function_data"):
            raise invalid(NO_GPU)
        function = request.function
        refuse_function_options(function)
        check_proxy(function.proxy_id)
        schedules.check(function.schedule)
        function_id = self._apps.define_function(request.app_id, request.existing_function_id, function)
        if function.webhook_config.type:
            function.web_url = await self._web.serve(function_id)
        await self._serve_methods(function_id, function)
        if function.web_url or function.method_definitions:
            self._apps.define_function(request.app_id, function_id, function)
        return api_pb2.FunctionCreateResponse(
            function_id=function_id,
            function=function,
            function_data=function_data(function),
            handle_metadata=self._handle(function_id),
        )

    async def FunctionGet(self, request: api_pb2.FunctionGetRequest, context: Any) -> api_pb2.FunctionGetResponse:
        """Look a deployed function up by its app's name and its tag, as it is now or as it was in a version."""
        app = self._apps.find(request.app_name, environment=request.environment_name)
        function_id: str | None = None
        if app is not None and request.app_version:
            function_id = await self._pinned(app, request.app_version, request.object_tag)
        elif app is not None:
            function_id = app.function_ids.get(request.object_tag)
        if function_id is None:
            classes = app.class_ids if app is not None else ()
            raise no_function(f"app '{request.app_name}'", request.object_tag, classes)
        return api_pb2.FunctionGetResponse(
            function_id=function_id,
            function=function_data(self._apps.function(function_id)),
            handle_metadata=self._handle(function_id),
        )

    async def _pinned(self, app: App, version: int, tag: str) -> str:
        """Return the id of a function as it was in a version; a web function has an address of its own for that."""
        function_id = self._deployments.pinned(app.app_id, version, tag)
        function = api_pb2.Function()
        function.CopyFrom(self._apps.function(function_id))
        if function.webhook_config.type:
            function.web_url = await self._web.serve(function_id)
        await self._serve_methods(function_id, function)
        if function != self._apps.function(function_id):
            self._apps.define_function(app.app_id, function_id, function)
        return function_id

    async def FunctionGetById(
        self, request: api_pb2.FunctionGetByIdRequest, context: Any
    ) -> api_pb2.FunctionGetByIdResponse:
        """Look a function or a variant up by its id."""
        return api_pb2.FunctionGetByIdResponse(
            function=function_data(self._apps.function(request.function_id)),
            handle_metadata=self._handle(request.function_id),
        )

    async def FunctionBindParams(
        self, request: api_pb2.FunctionBindParamsRequest, context: Any
    ) -> api_pb2.FunctionBindParamsResponse:
        """Make a variant of a function, with a class's parameters or other options. Equal ones have the same id."""
        refuse_variant_options(request.function_options)
        variant_id = self._apps.bind(request.function_id, request.serialized_params, request.function_options)
        return api_pb2.FunctionBindParamsResponse(
            bound_function_id=variant_id, handle_metadata=self._handle(variant_id)
        )

    async def ClassCreate(self, request: api_pb2.ClassCreateRequest, context: Any) -> api_pb2.ClassCreateResponse:
        """Return the id of a class, which the cloud knows by its id only: its methods run in a service function."""
        return api_pb2.ClassCreateResponse(
            class_id=self._apps.create_class(request.app_id, request.existing_class_id),
            handle_metadata=api_pb2.ClassHandleMetadata(),
        )

    async def ClassGet(self, request: api_pb2.ClassGetRequest, context: Any) -> api_pb2.ClassGetResponse:
        """Look a deployed class up by its app's name and its tag."""
        app = self._apps.find(request.app_name, environment=request.environment_name)
        class_id = app.class_ids.get(request.object_tag) if app is not None else None
        if class_id is None:
            raise not_found(f"Class '{request.object_tag}' of app '{request.app_name}' not found.")
        return api_pb2.ClassGetResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())

    async def FunctionUpdateSchedulingParams(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest, context: Any
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        """Override how a function scales, until it is deployed again."""
        settings = request.settings
        if settings.max_containers and settings.min_containers > settings.max_containers:
            raise invalid(
                f"min_containers ({settings.min_containers}) must not be larger than max_containers "
                f"({settings.max_containers})."
            )
        return api_pb2.FunctionUpdateSchedulingParamsResponse(
            current_settings=self._pools.override(request.function_id, settings)
        )

    async def FunctionGetSchedulingParams(
        self, request: api_pb2.FunctionGetSchedulingParamsRequest, context: Any
    ) -> api_pb2.FunctionGetSchedulingParamsResponse:
        """Return how a function scales, now and as it is defined."""
        return api_pb2.FunctionGetSchedulingParamsResponse(
            autoscaler_configuration=api_pb2.AutoscalerConfiguration(
                settings=self._pools.settings(request.function_id),
                static_settings=self._apps.function(request.function_id).autoscaler_settings,
            )
        )

    async def FunctionGetCurrentStats(
        self, request: api_pb2.FunctionGetCurrentStatsRequest, context: Any
    ) -> api_pb2.FunctionStats:
        """Count a function's containers, its running inputs, those that wait, and how many more could run at once."""
        tasks = [task for task in self._pools.tasks() if task.function_id == request.function_id]
        backlog = self._pools.backlog(request.function_id)
        takes_more = (task for task in tasks if task.ready and not (task.draining or task.spent))
        room = sum(task.capacity - len(task.inputs) for task in takes_more)
        return api_pb2.FunctionStats(
            backlog=backlog,
            num_total_tasks=len(tasks),
            num_running_inputs=sum(len(task.inputs) for task in tasks),
            input_headroom=max(0, room - backlog),
        )


def function_data(function: api_pb2.Function) -> api_pb2.FunctionData:
    """Return a definition as the FunctionData that the SDK reads back; its one ranked function is the definition."""
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

"""Function handles: what the SDK gets to know about a function, so that it can call it."""

from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps

MAX_OBJECT_BYTES = 2 * 1024 * 1024  # larger arguments and results are sent as blobs


def handle_metadata(
    apps: Apps, function_id: str, web_url: str, definition: api_pb2.Function | None = None
) -> api_pb2.FunctionHandleMetadata:
    """Build the handle of a function; `definition` is used instead of the stored one when it is given.

    Raises CloudError NOT_FOUND.
    """
    function = definition if definition is not None else apps.function(function_id)
    return api_pb2.FunctionHandleMetadata(
        function_name=function.function_name,
        function_type=function.function_type,
        web_url=web_url,
        method_handle_metadata={
            name: api_pb2.FunctionHandleMetadata(
                function_name=method.function_name,
                function_type=method.function_type,
                web_url=method.web_url,
                is_method=True,
                use_method_name=name,
                function_schema=method.function_schema,
                max_object_size_bytes=MAX_OBJECT_BYTES,
                supported_input_formats=method.supported_input_formats,
                supported_output_formats=method.supported_output_formats,
            )
            for name, method in function.method_definitions.items()
        },
        is_method=function.is_method,
        definition_id=apps.definition_id(function_id),
        class_parameter_info=function.class_parameter_info,
        function_schema=function.function_schema,
        max_object_size_bytes=MAX_OBJECT_BYTES,
        supported_input_formats=function.supported_input_formats,
        supported_output_formats=function.supported_output_formats,
        app_id=apps.app_of(function_id).app_id,
    )

"""Variants of functions: what `with_options`, `with_concurrency` and `with_batching` change in a definition."""

from modal_proto import api_pb2

_SAME_NAME = (
    "resources",
    "retry_policy",
    "concurrency_limit",
    "timeout_secs",
    "task_idle_timeout_secs",
    "warm_pool_size",
    "target_concurrent_inputs",
    "max_concurrent_inputs",
    "batch_max_size",
    "batch_linger_ms",
)
# These settings are in a definition twice, and the autoscaler's are the ones that have an effect.
_AUTOSCALER = {
    "concurrency_limit": "max_containers",
    "task_idle_timeout_secs": "scaledown_window",
    "warm_pool_size": "min_containers",
    "buffer_containers": "buffer_containers",
}


def with_options(definition: api_pb2.Function, options: api_pb2.FunctionOptions) -> api_pb2.Function:
    """Return a copy of the base function's definition with every option that is set in `options`."""
    function = api_pb2.Function()
    function.CopyFrom(definition)
    for name in _SAME_NAME:
        if options.HasField(name):  # type: ignore[arg-type]  # a name of the list above
            value = getattr(options, name)
            if name == "resources":
                function.resources.MergeFrom(value)
            elif name == "retry_policy":
                function.retry_policy.CopyFrom(value)
            else:
                setattr(function, name, value)
    for name, setting in _AUTOSCALER.items():
        if options.HasField(name):  # type: ignore[arg-type]  # a name of the map above
            setattr(function.autoscaler_settings, setting, getattr(options, name))
    if options.replace_secret_ids:
        del function.secret_ids[:]
    function.secret_ids.extend(options.secret_ids)
    if options.replace_volume_mounts:
        del function.volume_mounts[:]
    function.volume_mounts.extend(options.volume_mounts)
    return function

"""Refuses options of Modal that the local cloud does not implement, by name, in the call that asks for them.

A definition may have options that are implemented, and options that make no difference on one machine. Every other
option that is set is refused, also one that is unknown here: a program would miss its effect.
"""

import re
from collections.abc import Iterable, Mapping

from google.protobuf.message import Message
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import invalid

NO_GPU = "GPUs are not available on the local cloud."
_NO_BUCKETS = "CloudBucketMount is not implemented by the local cloud: it has no network of its own; use a Volume."
_NO_SERVERS = (
    "containers share this machine's network, and a server in one would be open to whoever reaches the machine. "
    "Use asgi_app or wsgi_app."
)
_SHARED_NETWORK = "containers share this machine's network. Run what must not reach it in a Sandbox."
_RESTRICTING = (api_pb2.NetworkAccess.BLOCKED, api_pb2.NetworkAccess.ALLOWLIST)

# Options without an effect here: where and on which hardware something runs, and debugging of the platform itself.
_NO_EFFECT = frozenset(
    (
        "cloud_provider",
        "cloud_provider_str",
        "resources",
        "routing_region",
        "runtime_debug",
        "runtime_perf_record",
        "scheduler_placement",
        "snapshot_debug",
        "verbose",
        "worker_id",
    )
)
_OF_SANDBOXES = _NO_EFFECT | {
    "block_network",
    "direct_sandbox_commands_enabled",
    "entrypoint_args",
    "idle_timeout_secs",
    "image_id",
    "mount_ids",
    "name",
    "network_access",
    "open_ports",
    "proxy_id",  # what leaves keeps this machine's address
    "readiness_probe",
    "runtime",
    "secret_ids",
    "timeout_secs",
    "volume_mounts",
    "workdir",
}
_OF_FUNCTIONS = _NO_EFFECT | {
    "_experimental_buffer_containers",
    "_experimental_concurrent_cancellations",
    "app_name",
    "autoscaler_settings",
    "batch_linger_ms",
    "batch_max_size",
    "checkpointing_enabled",  # containers always start from nothing here; a program cannot tell the difference
    "class_parameter_info",
    "class_serialized",
    "concurrency_limit",
    "definition_type",
    "function_name",
    "function_schema",
    "function_serialized",
    "function_type",
    "image_id",
    "implementation_name",
    "is_auto_snapshot",
    "is_builder_function",
    "is_class",
    "is_method",
    "max_concurrent_inputs",
    "max_inputs",
    "method_definitions",
    "method_definitions_set",
    "module_name",
    "mount_client_dependencies",
    "mount_ids",
    "object_dependencies",
    "proxy_id",  # what leaves keeps this machine's address
    "pty_info",
    "retry_policy",
    "runtime",
    "schedule",
    "secret_ids",
    "single_use_containers",
    "startup_timeout_secs",
    "supported_input_formats",
    "supported_output_formats",
    "target_concurrent_inputs",
    "task_idle_timeout_secs",
    "timeout_secs",
    "untrusted",
    "volume_mounts",
    "warm_pool_size",
    "web_url",
    "web_url_info",
    "webhook_config",
}
_OF_VARIANTS = _NO_EFFECT | {
    "batch_linger_ms",
    "batch_max_size",
    "buffer_containers",
    "concurrency_limit",
    "max_concurrent_inputs",
    "mount_ids",
    "replace_cloud_bucket_mounts",
    "replace_secret_ids",
    "replace_volume_mounts",
    "retry_policy",
    "secret_ids",
    "target_concurrent_inputs",
    "task_idle_timeout_secs",
    "timeout_secs",
    "volume_mounts",
    "warm_pool_size",
}
_OF_WEB_FUNCTIONS = frozenset(
    (
        "async_mode",
        "ephemeral_suffix",
        "method",
        "requested_suffix",  # `label`, a part of a DNS name on Modal; here an address differs by its port
        "requires_proxy_auth",
        "type",
        "web_endpoint_docs",
    )
)
# The SDK's names of options whose names in the protocol differ.
_CALLED = {
    "_experimental_group_size": "clustered",
    "enable_snapshot": "_experimental_enable_snapshot",
    "experimental_options_v2": "experimental_options",
    "experimental_outbound_policy": "outbound_policy",
    "i6pn_enabled": "i6pn",
    "nfs_mounts": "network_file_systems",
    "pty_info": "pty",
}
_CLOUDS = frozenset(
    (
        "auto",
        "aws",
        "azure",
        "coreweave",
        "crusoe",
        "datacrunch",
        "gcp",
        "hetzner",
        "lambda",
        "latitude",
        "nebius",
        "oci",
    )
)
_REGION = re.compile(
    r"(us|eu|uk|gb|ap|ca|jp|me|mx|sa|af|il|in|au|br|kr|sg|de|fr|asia|europe|australia|africa|northamerica|southamerica)"
    r"(-[a-z]+)*(-?\d+)?"
    r"|[a-z]*(east|west|north|south|central)[a-z]*\d?",
    re.ASCII,
)


def refuse_sandbox_options(definition: api_pb2.Sandbox) -> None:
    """Raise CloudError INVALID_ARGUMENT for an option of a sandbox that is not implemented."""
    _refuse_hardware(definition.resources)
    if definition.HasField("pty_info"):
        raise invalid("Sandbox.create with pty is not implemented by the local cloud: give it to exec.")
    asked = _unknown(definition, _OF_SANDBOXES)
    if definition.runtime not in ("", "gvisor"):
        asked.append(f'runtime="{definition.runtime[:50]}"')
    _refuse("Sandbox.create", asked)
    check_placement(definition.cloud_provider_str, definition.scheduler_placement)


def refuse_function_options(function: api_pb2.Function) -> None:
    """Raise CloudError INVALID_ARGUMENT for an option of a function that is not implemented."""
    _refuse_hardware(function.resources)
    if function.cloud_bucket_mounts or function.s3_mounts:
        raise invalid(_NO_BUCKETS)
    if function.shared_volume_mounts:
        raise invalid("NetworkFileSystem is not implemented by the local cloud; use a Volume.")
    if function.block_network or function.network_access.network_access_type in _RESTRICTING:
        raise invalid(f"block_network of a function is not implemented by the local cloud: {_SHARED_NETWORK}")
    if function.is_server:
        raise invalid(f"modal.Server is not implemented by the local cloud: {_NO_SERVERS}")
    if function._experimental_group_size > 1:
        raise invalid("Clustered functions are not implemented by the local cloud: there is one machine.")
    refuse_web_options(function.webhook_config)
    for method in function.method_definitions.values():
        refuse_web_options(method.webhook_config)
    _refuse(f"The function '{function.function_name[:100]}'", _unknown(function, _OF_FUNCTIONS))
    check_placement(function.cloud_provider_str, function.scheduler_placement)


def refuse_web_options(config: api_pb2.WebhookConfig) -> None:
    """Raise CloudError INVALID_ARGUMENT for an option of a web function that is not implemented."""
    if config.type == api_pb2.WEBHOOK_TYPE_WEB_SERVER:
        raise invalid(f"web_server is not implemented by the local cloud: {_NO_SERVERS}")
    _refuse("A web function", _unknown(config, _OF_WEB_FUNCTIONS))


def refuse_variant_options(options: api_pb2.FunctionOptions) -> None:
    """Raise CloudError INVALID_ARGUMENT for an option of `with_options` that is not implemented."""
    _refuse_hardware(options.resources)
    if options.cloud_bucket_mounts:
        raise invalid(_NO_BUCKETS)
    _refuse("with_options", _unknown(options, _OF_VARIANTS))
    check_placement(options.cloud_provider_str, options.scheduler_placement)


def refuse_options(what: str, request: Message, known: Iterable[str]) -> None:
    """Raise CloudError INVALID_ARGUMENT when a request has fields set that are not in `known`.

    `what` begins the sentence: the thing or call that was given the options.
    """
    _refuse(what, _unknown(request, frozenset(known)))


def check_placement(cloud: str, placement: api_pb2.SchedulerPlacement) -> None:
    """Raise CloudError INVALID_ARGUMENT for a cloud or a region that Modal does not have; real ones have no effect."""
    if cloud and cloud.lower() not in _CLOUDS:
        known = ", ".join(sorted(_CLOUDS))
        raise invalid(f"Invalid cloud provider: {cloud[:100]}. Leave it out, or use one of {known}.")
    for region in placement.regions:
        if not _REGION.fullmatch(region.lower()):
            raise invalid(f"Invalid region: {region[:100]}. Leave it out, or use one such as us-east or eu-west-1.")


def _refuse_hardware(resources: api_pb2.Resources) -> None:
    if resources.gpu_config.type or resources.gpu_config.gpu_type:
        raise invalid(NO_GPU)
    if resources.rdma:
        raise invalid("RDMA is not implemented by the local cloud: there is one machine.")


def _unknown(message: Message, known: frozenset[str]) -> list[str]:
    """Return the fields that are set in a message and not in `known`, by the SDK's names and with their keys."""
    names = []
    for field, value in message.ListFields():
        if field.name in known:
            continue
        name = _CALLED.get(field.name, field.name)
        keys = [f"'{key}'" for key in sorted(value)] if isinstance(value, Mapping) else []
        names.append(" ".join([name, ", ".join(keys)]).strip())
    return names


def _refuse(what: str, asked: list[str]) -> None:
    if asked:
        raise invalid(f"{what} with {', '.join(asked)[:1000]} is not implemented by the local cloud: leave it out.")

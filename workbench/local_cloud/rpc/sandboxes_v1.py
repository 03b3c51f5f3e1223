"""The first family of sandbox RPCs (V1), which the SDK uses for GPUs, network file systems and terminals as programs.

There are no such sandboxes here. Making one is refused with the reason; whoever looks for one finds none.
"""

from typing import Any

from grpc import StatusCode
from modal_proto import api_pb2

from workbench.local_cloud.rpc.failures import RpcFailure, not_found


class FirstSandboxRpcs:
    """Answers about V1 sandboxes."""

    async def SandboxCreate(self, request: api_pb2.SandboxCreateRequest, context: Any) -> api_pb2.SandboxCreateResponse:
        """Refuse by the name of what was asked for."""
        definition = request.definition
        asked = "MODAL_SANDBOX_V2=0"
        if definition.resources.gpu_config.gpu_type or definition.resources.gpu_config.type:
            asked = "gpu"
        elif definition.nfs_mounts:
            asked = "network_file_systems"
        elif definition.HasField("pty_info"):
            asked = "pty"
        raise RpcFailure(
            StatusCode.UNIMPLEMENTED,
            f"Sandbox.create with {asked} is not implemented by the local cloud: leave it out.",
        )

    async def SandboxGetFromName(
        self, request: api_pb2.SandboxGetFromNameRequest, context: Any
    ) -> api_pb2.SandboxGetFromNameResponse:
        """There is none; the SDK asks for it as well."""
        raise not_found(f"Sandbox '{request.sandbox_name}' of app '{request.app_name}' not found.")

    async def SandboxList(self, request: api_pb2.SandboxListRequest, context: Any) -> api_pb2.SandboxListResponse:
        """There are none; the SDK asks for them as well."""
        return api_pb2.SandboxListResponse()

"""Handshake, tokens, environments and the workspace: what the SDK asks before it does anything."""

from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.ids import new_id
from workbench.local_cloud.rpc.callers import Gate
from workbench.local_cloud.rpc.failures import invalid
from workbench.local_cloud.store.objects import DEFAULT_ENVIRONMENT, Objects

SDK_VERSION = "1.6.4"
IMAGE_BUILDER_VERSION = "2025.06"
WORKSPACE = "local"


class SessionRpcs:
    """Answers for one workspace named `local` with named environments in it."""

    def __init__(self, gate: Gate, objects: Objects) -> None:
        self._gate = gate
        self._objects = objects

    async def ClientHello(self, request: empty_pb2.Empty, context: Any) -> api_pb2.ClientHelloResponse:
        """Greet, and warn a client of another version by name."""
        version = dict(context.invocation_metadata() or ()).get("x-modal-client-version", "")
        response = api_pb2.ClientHelloResponse(image_builder_version=IMAGE_BUILDER_VERSION)
        if version != SDK_VERSION:
            response.server_warnings.add(
                type=api_pb2.Warning.WARNING_TYPE_UNSPECIFIED,
                message=f"the local cloud speaks the protocol of modal {SDK_VERSION}; "
                f"this client is {version or 'unknown'}",
            )
        return response

    async def AuthTokenGet(self, request: api_pb2.AuthTokenGetRequest, context: Any) -> api_pb2.AuthTokenGetResponse:
        """Hand out a signed token to a caller that has already shown its credentials."""
        return api_pb2.AuthTokenGetResponse(token=self._gate.sign(sub=WORKSPACE))

    async def TokenInfoGet(self, request: api_pb2.TokenInfoGetRequest, context: Any) -> api_pb2.TokenInfoGetResponse:
        """Describe the one token that the local cloud knows."""
        token_id = dict(context.invocation_metadata() or ()).get("x-modal-token-id", "")
        return api_pb2.TokenInfoGetResponse(token_id=token_id, workspace_name=WORKSPACE)

    async def WorkspaceNameLookup(self, request: empty_pb2.Empty, context: Any) -> api_pb2.WorkspaceNameLookupResponse:
        """Name the one workspace."""
        return api_pb2.WorkspaceNameLookupResponse(workspace_name=WORKSPACE, username=WORKSPACE)

    async def EnvironmentGetOrCreate(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, context: Any
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        """Find an environment by name; the empty name is the default one, which always exists."""
        name = request.deployment_name or DEFAULT_ENVIRONMENT
        if len(name) > 64 or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise invalid(f"Invalid environment name {name[:64]!r}: use letters, digits, dashes, dots and underscores.")
        creation_type = request.object_creation_type
        if name == DEFAULT_ENVIRONMENT:
            creation_type = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
        environment_id, _ = self._objects.get_or_create(
            "environment", "en", environment="*", name=name, creation_type=creation_type
        )
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=environment_id,
            metadata=api_pb2.EnvironmentMetadata(
                name=name, settings=api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER_VERSION)
            ),
        )

    async def EnvironmentList(self, request: empty_pb2.Empty, context: Any) -> api_pb2.EnvironmentListResponse:
        """List the environments, the default one among them."""
        names = {name: created_at for _, name, created_at in self._objects.list("environment", environment="*")}
        names.setdefault(DEFAULT_ENVIRONMENT, 0.0)
        items = [
            api_pb2.EnvironmentListItem(
                name=name, created_at=created_at, default=name == DEFAULT_ENVIRONMENT, environment_id=new_id("en")
            )
            for name, created_at in names.items()
        ]
        return api_pb2.EnvironmentListResponse(items=items)

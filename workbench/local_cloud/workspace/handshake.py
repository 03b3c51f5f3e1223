"""Handshake, tokens and the workspace: what the SDK asks before it does anything."""

from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.server.callers import Authenticator, metadata
from workbench.local_cloud.workspace.environments import IMAGE_BUILDER_VERSION

SDK_VERSION = "1.6.4"
WORKSPACE = "local"


class SessionRpcs:
    """Answers for one workspace named `local`."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def ClientHello(self, request: empty_pb2.Empty, context: Any) -> api_pb2.ClientHelloResponse:
        """Greet, and warn a client of another version by name."""
        return api_pb2.ClientHelloResponse(
            image_builder_version=IMAGE_BUILDER_VERSION, server_warnings=version_warnings(context)
        )

    async def AuthTokenGet(self, request: api_pb2.AuthTokenGetRequest, context: Any) -> api_pb2.AuthTokenGetResponse:
        """Hand out a signed token to a caller that has already shown its credentials."""
        return api_pb2.AuthTokenGetResponse(token=self._authenticator.sign(sub=WORKSPACE))

    async def TokenInfoGet(self, request: api_pb2.TokenInfoGetRequest, context: Any) -> api_pb2.TokenInfoGetResponse:
        """Describe the one token that the local cloud knows."""
        token_id = metadata(context).get("x-modal-token-id", "")
        return api_pb2.TokenInfoGetResponse(token_id=token_id, workspace_name=WORKSPACE)

    async def WorkspaceNameLookup(self, request: empty_pb2.Empty, context: Any) -> api_pb2.WorkspaceNameLookupResponse:
        """Name the one workspace."""
        return api_pb2.WorkspaceNameLookupResponse(workspace_name=WORKSPACE, username=WORKSPACE)


def client_version(context: Any) -> str:
    """Which SDK calls."""
    return metadata(context).get("x-modal-client-version", "")[:64]


def version_warnings(context: Any) -> list[api_pb2.Warning]:
    """What a client of another version must know; the SDK shows it."""
    version = client_version(context)
    if version == SDK_VERSION:
        return []
    text = f"the local cloud speaks the protocol of modal {SDK_VERSION}; this client is {version or 'unknown'}"
    return [api_pb2.Warning(type=api_pb2.Warning.WARNING_TYPE_UNSPECIFIED, message=text)]

"""The SDK's handshake: the RPCs with which it begins, about versions, tokens and the workspace's name."""

from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.server.callers import Authenticator, metadata
from workbench.local_cloud.workspace.environments import IMAGE_BUILDER_VERSION

SDK_VERSION = "1.6.4"
WORKSPACE = "local"


class SessionRpcs:
    """Handles the handshake's RPCs, for one workspace named `local`."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def ClientHello(self, request: empty_pb2.Empty, context: Any) -> api_pb2.ClientHelloResponse:
        """Answer the SDK's greeting, with a warning for a client of another version."""
        return api_pb2.ClientHelloResponse(
            image_builder_version=IMAGE_BUILDER_VERSION, server_warnings=version_warnings(context)
        )

    async def AuthTokenGet(self, request: api_pb2.AuthTokenGetRequest, context: Any) -> api_pb2.AuthTokenGetResponse:
        """Return a signed token to a caller that is already authenticated."""
        return api_pb2.AuthTokenGetResponse(token=self._authenticator.sign(sub=WORKSPACE))

    async def TokenInfoGet(self, request: api_pb2.TokenInfoGetRequest, context: Any) -> api_pb2.TokenInfoGetResponse:
        """Describe the token that the caller shows."""
        token_id = metadata(context).get("x-modal-token-id", "")
        return api_pb2.TokenInfoGetResponse(
            token_id=token_id,
            workspace_id=WORKSPACE,
            workspace_name=WORKSPACE,
            user_identity=api_pb2.UserIdentity(user_id=WORKSPACE, username=WORKSPACE),
        )

    async def WorkspaceNameLookup(self, request: empty_pb2.Empty, context: Any) -> api_pb2.WorkspaceNameLookupResponse:
        """Return the name of the workspace."""
        return api_pb2.WorkspaceNameLookupResponse(workspace_name=WORKSPACE, username=WORKSPACE)


def client_version(context: Any) -> str:
    """Return the version of the calling SDK, at most 64 characters; empty when it does not say."""
    return metadata(context).get("x-modal-client-version", "")[:64]


def version_warnings(context: Any) -> list[api_pb2.Warning]:
    """Return a warning for a client of another version, which the SDK prints; empty for the right version."""
    version = client_version(context)
    if version == SDK_VERSION:
        return []
    text = (
        f"the local cloud speaks the protocol of modal {SDK_VERSION}; this client is {version or 'unknown'}: "
        f"run `pip install modal=={SDK_VERSION}`"
    )
    return [api_pb2.Warning(type=api_pb2.Warning.WARNING_TYPE_UNSPECIFIED, message=text)]

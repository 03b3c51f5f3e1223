"""Proxy token RPCs: the tokens that open web functions with `requires_proxy_auth`."""

from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import invalid
from workbench.local_cloud.store.names import Objects
from workbench.local_cloud.workspace.proxy_tokens import ProxyToken, ProxyTokens

_MAX_NAME = 128


class ProxyTokenRpcs:
    """Handles the proxy token RPCs; a token's secret is returned only once, when the token is made."""

    def __init__(self, tokens: ProxyTokens, objects: Objects) -> None:
        self._tokens = tokens
        self._objects = objects

    async def WebhookTokenCreate(
        self, request: api_pb2.WebhookTokenCreateRequest, context: Any
    ) -> api_pb2.TokenCreateResponse:
        """Make a token and return its id and secret."""
        token_id, secret = self._tokens.create(_checked(request.name), scoped=request.scoped)
        return api_pb2.TokenCreateResponse(token_id=token_id, token_secret=secret)

    async def WebhookTokenUpdate(
        self, request: api_pb2.WebhookTokenUpdateRequest, context: Any
    ) -> api_pb2.WebhookToken:
        """Rename a token."""
        self._tokens.rename(request.token_id, _checked(request.name))
        (renamed,) = [token for token in self._tokens.all() if token.token_id == request.token_id]
        return _described(renamed)

    async def WebhookTokenDelete(self, request: api_pb2.TokenDeleteRequest, context: Any) -> empty_pb2.Empty:
        """Delete a token: it opens nothing from now on."""
        self._tokens.delete(request.token_id)
        return empty_pb2.Empty()

    async def WebhookTokenList(self, request: empty_pb2.Empty, context: Any) -> api_pb2.WebhookTokenListResponse:
        """List every token, without its secret."""
        return _listed(self._tokens.all())

    async def WebhookTokenListForEnvironment(
        self, request: api_pb2.WebhookTokenListForEnvironmentRequest, context: Any
    ) -> api_pb2.WebhookTokenListResponse:
        """List the tokens that open an environment's functions."""
        environment_id = self._objects.environment_id(request.environment_name)
        return _listed(self._tokens.all(environment_id=environment_id))

    async def WebhookTokenEnvironmentAdd(
        self, request: api_pb2.WebhookTokenEnvironmentAddRequest, context: Any
    ) -> empty_pb2.Empty:
        """Add an environment to those that a token opens; with its first one the token becomes a scoped token."""
        self._objects.describe("environment", request.environment_id)
        self._tokens.allow(request.token_id, request.environment_id)
        return empty_pb2.Empty()

    async def WebhookTokenEnvironmentRemove(
        self, request: api_pb2.WebhookTokenEnvironmentRemoveRequest, context: Any
    ) -> empty_pb2.Empty:
        """Remove an environment from those that a scoped token opens."""
        self._tokens.revoke(request.token_id, request.environment_id)
        return empty_pb2.Empty()

    async def WebhookTokenEnvironmentList(
        self, request: api_pb2.WebhookTokenEnvironmentListRequest, context: Any
    ) -> api_pb2.WebhookTokenEnvironmentListResponse:
        """List the environments that a scoped token opens, by their ids."""
        return api_pb2.WebhookTokenEnvironmentListResponse(environment_ids=self._tokens.environments(request.token_id))


def _checked(name: str) -> str:
    if len(name) > _MAX_NAME:
        raise invalid(f"A proxy token's name is at most {_MAX_NAME} characters, not {len(name)}.")
    return name


def _listed(tokens: list[ProxyToken]) -> api_pb2.WebhookTokenListResponse:
    return api_pb2.WebhookTokenListResponse(tokens=map(_described, tokens))


def _described(token: ProxyToken) -> api_pb2.WebhookToken:
    return api_pb2.WebhookToken(
        token_id=token.token_id,
        name=token.name,
        scoped=token.scoped,
        created_at=token.created_at,
        created_by=api_pb2.UserIdentity(username="local"),
    )

"""Authentication: decides from a call's metadata who the caller is, and refuses callers that it does not know.

A person's SDK sends the cloud's token; a function container sends the secret of its own task; a connection to the task
command router sends a token that is signed for one sandbox. Every comparison takes constant time.
"""

import hmac
import secrets
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jwt

from workbench.local_cloud.base.credentials import Credentials
from workbench.local_cloud.base.errors import CloudError, Reason

TASK_HEADER = "x-local-cloud-task"
_AUTH_TOKEN_TTL_S = 20 * 60
_TOKENS_KEPT = 4096


# The RPCs that a container needs to serve its function. With `restrict_modal_access` it may call these only.
OF_EVERY_CONTAINER = frozenset(
    (
        "AuthTokenGet",
        "BlobCreate",
        "BlobGet",
        "ClientHello",
        "ContainerHeartbeat",
        "ContainerHello",
        "ContainerLog",
        "FunctionCallGetDataIn",
        "FunctionCallPutDataOut",
        "FunctionGetDynamicConcurrency",
        "FunctionGetInputs",
        "FunctionPutOutputs",
        "TaskResult",
        "VolumeCommit",
        "VolumeReload",
    )
)


@dataclass(frozen=True)
class Caller:
    """One authenticated caller.

    `task_id` is the caller's own for a container, that of the sandbox which it may reach for a router connection, and
    None for a client. A `restricted` container may call `OF_EVERY_CONTAINER` only.
    """

    kind: str  # "client" | "container" | "router"
    task_id: str | None = None
    restricted: bool = False

    def check(self, rpc: str) -> None:
        """Raise CloudError PERMISSION_DENIED for an RPC that this caller may not call."""
        if self.restricted and rpc not in OF_EVERY_CONTAINER:
            raise CloudError(
                Reason.PERMISSION_DENIED,
                f"This container may not call {rpc}: its function is deployed with restrict_modal_access=True.",
            )


caller: ContextVar[Caller] = ContextVar("caller")


def metadata(context: Any) -> dict[str, str]:
    """Return the metadata of a gRPC call, by lower-case names."""
    return {key: str(value) for key, value in context.invocation_metadata() or ()}


class Authenticator:
    """Checks the credentials that calls show, and signs tokens."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._task_secrets: dict[str, str] = {}
        self._restricted: set[str] = set()
        self._verified = lru_cache(_TOKENS_KEPT)(self._verify)  # a sandbox's token comes with each of its calls

    def admit_task(self, task_id: str, *, restricted: bool = False) -> str:
        """Return the value of `TASK_HEADER` that identifies the container `task_id`.

        A restricted container may call `OF_EVERY_CONTAINER` only.
        """
        if restricted:
            self._restricted.add(task_id)
        secret = self._task_secrets.setdefault(task_id, secrets.token_urlsafe(24))
        return f"{task_id}.{secret}"

    def dismiss_task(self, task_id: str) -> None:
        """Forget a container's secret: calls that show it are refused from now on."""
        self._task_secrets.pop(task_id, None)
        self._restricted.discard(task_id)

    def sign(self, **claims: str) -> str:
        """Return a JWT with these claims that expires after 20 minutes."""
        now = int(time.time())
        return jwt.encode(
            {**claims, "iat": now, "exp": now + _AUTH_TOKEN_TTL_S}, self._credentials.signing_key, "HS256"
        )

    def identify(self, metadata: Mapping[str, str]) -> Caller:
        """Return the caller whose credentials are in this metadata; raises CloudError UNAUTHENTICATED."""
        if shown := metadata.get(TASK_HEADER):
            task_id, _, secret = shown.partition(".")
            expected = self._task_secrets.get(task_id)
            if expected is not None and hmac.compare_digest(expected.encode(), secret.encode()):
                return Caller("container", task_id, restricted=task_id in self._restricted)
        token_id, token_secret = metadata.get("x-modal-token-id", ""), metadata.get("x-modal-token-secret", "")
        good_id = hmac.compare_digest(self._credentials.token_id.encode(), token_id.encode())
        good_secret = hmac.compare_digest(self._credentials.token_secret.encode(), token_secret.encode())
        if good_id and good_secret:
            return Caller("client")
        raise CloudError(
            Reason.UNAUTHENTICATED,
            'The local cloud does not know this token. Run `eval "$(workbench cloud env)"` in this shell.',
        )

    def identify_router(self, metadata: Mapping[str, str]) -> Caller:
        """Return the caller of a router call, with the task of the sandbox that it may reach.

        Raises CloudError UNAUTHENTICATED.
        """
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        try:
            task_id, expires_at = self._verified(token)
            if time.time() >= expires_at:
                raise jwt.ExpiredSignatureError
        except jwt.InvalidTokenError as error:
            raise CloudError(
                Reason.UNAUTHENTICATED,
                "The router token is missing, wrong or expired: ask for a new one (SandboxGetCommandRouterAccess).",
            ) from error
        if scheme.lower() != "bearer":
            raise CloudError(Reason.UNAUTHENTICATED, "The router takes the authorization `Bearer TOKEN` only.")
        return Caller("router", task_id)

    def _verify(self, token: str) -> tuple[str, int]:
        """Return the task that a token is for, and when it expires in Unix seconds. Raises jwt.InvalidTokenError."""
        claims = jwt.decode(
            token, self._credentials.signing_key, algorithms=["HS256"], options={"require": ["exp", "task_id"]}
        )
        return str(claims["task_id"]), int(claims["exp"])

"""Who calls: decides from a call's metadata whether it may pass and as whom.

A person's SDK shows the cloud's token; a function container shows the secret of its own task; a connection to the task
command router shows a token signed for one sandbox. Nothing else passes, and every comparison takes constant time.
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


# What a container needs to serve its function, and all that one with `restrict_modal_access` may call.
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
    """One authenticated caller: `task_id` is set for function containers only, `restricted` for some of those."""

    kind: str  # "client" | "container" | "router"
    task_id: str | None = None
    restricted: bool = False

    def check(self, rpc: str) -> None:
        """Raise CloudError PERMISSION_DENIED for a call that this one may not make."""
        if self.restricted and rpc not in OF_EVERY_CONTAINER:
            raise CloudError(
                Reason.PERMISSION_DENIED,
                f"{rpc} is not for this container: its function is deployed with restrict_modal_access=True.",
            )


caller: ContextVar[Caller] = ContextVar("caller")


def metadata(context: Any) -> dict[str, str]:
    """What a call says besides its request, by lower-case names."""
    return {key: str(value) for key, value in context.invocation_metadata() or ()}


class Authenticator:
    """Checks credentials and signs tokens."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._task_secrets: dict[str, str] = {}
        self._restricted: set[str] = set()
        self._verified = lru_cache(_TOKENS_KEPT)(self._verify)  # each is shown with every call of a sandbox

    def admit_task(self, task_id: str, *, restricted: bool = False) -> str:
        """Return the header value that makes its bearer the container `task_id`; a restricted one may do little."""
        if restricted:
            self._restricted.add(task_id)
        secret = self._task_secrets.setdefault(task_id, secrets.token_urlsafe(24))
        return f"{task_id}.{secret}"

    def dismiss_task(self, task_id: str) -> None:
        """Make a container's secret worthless."""
        self._task_secrets.pop(task_id, None)
        self._restricted.discard(task_id)

    def sign(self, **claims: str) -> str:
        """Return a short-lived JWT with these claims."""
        now = int(time.time())
        return jwt.encode(
            {**claims, "iat": now, "exp": now + _AUTH_TOKEN_TTL_S}, self._credentials.signing_key, "HS256"
        )

    def identify(self, metadata: Mapping[str, str]) -> Caller:
        """Return who shows this metadata to the control plane; raises CloudError UNAUTHENTICATED."""
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
        """Return whose sandbox a router call may reach; raises CloudError UNAUTHENTICATED."""
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        try:
            task_id, expires_at = self._verified(token)
            if time.time() >= expires_at:
                raise jwt.ExpiredSignatureError
        except jwt.InvalidTokenError as error:
            raise CloudError(Reason.UNAUTHENTICATED, "The router token is missing, wrong or expired.") from error
        if scheme.lower() != "bearer":
            raise CloudError(Reason.UNAUTHENTICATED, "The router takes bearer tokens only.")
        return Caller("router", task_id)

    def _verify(self, token: str) -> tuple[str, int]:
        """Whose sandbox a token is for, and when it expires. Raises jwt.InvalidTokenError."""
        claims = jwt.decode(
            token, self._credentials.signing_key, algorithms=["HS256"], options={"require": ["exp", "task_id"]}
        )
        return str(claims["task_id"]), int(claims["exp"])

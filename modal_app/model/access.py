"""How runs get to the model: each is granted the gateway's address and a token of its own, for as long as it may live.

The endpoint signs tokens and never sees the model's key; the gateway has the key, and asks whether a run still lives.
"""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import modal
from pydantic import SecretStr

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.model.grants import ModelGrant
from modal_app.model_gateway.run_tokens import RunClaims, mint
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS

NO_MODEL = ContractError(
    ErrorCode.MODEL_ERROR,
    "this endpoint has no model: set WORKBENCH_MODEL_UPSTREAM_KEY and deploy it again",
)
_LOOK_UP_S = 15.0


class ModelAccess:
    """Grants the model to runs. `secret` is None on an endpoint that has no model."""

    def __init__(self, secret: SecretStr | None, gateway: modal.Function[..., Any, Any]) -> None:
        self._secret = secret
        self._gateway = gateway

    def check(self) -> None:
        """Raises ContractError `model_error` when there is no model."""
        if self._secret is None:
            raise NO_MODEL

    async def grant(self, run_id: str, *, lasts_s: float, replay: str | None = None) -> ModelGrant:
        """The grant of a run, in which the recording `replay` answers if there is one.

        Raises ContractError `model_error`, `sandbox_unavailable`.
        """
        if self._secret is None:
            raise NO_MODEL
        try:
            async with asyncio.timeout(_LOOK_UP_S):
                await self._gateway.hydrate.aio()
                url = await self._gateway.get_web_url.aio()
        except PLATFORM_ERRORS:
            url = None
        if not url:
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, "the model gateway cannot be found: try again soon")
        claims = RunClaims(run_id, int(time.time() + lasts_s) + 1, replay=replay)
        return ModelGrant(url, mint(self._secret, claims))


def host_of(grant: ModelGrant) -> str:
    """The one host that the run's sandbox may reach: a name, with a port where that is not the usual one."""
    return urlsplit(grant.base_url).netloc

"""Grants runs access to the model: the gateway's address, and a token of the run's own for as long as it may last.

The endpoint signs tokens and never sees the model's key. The gateway holds the key and checks that the run is open.
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
    """Makes grants. `secret` signs tokens and is None on an endpoint without a model; `gateway` is its function."""

    def __init__(self, secret: SecretStr | None, gateway: modal.Function[..., Any, Any]) -> None:
        self._secret = secret
        self._gateway = gateway

    def check(self) -> None:
        """Raises ContractError `model_error` when there is no model."""
        if self._secret is None:
            raise NO_MODEL

    async def grant(self, run_id: str, *, lasts_s: float, replay: str | None = None) -> ModelGrant:
        """The grant of a run, valid for `lasts_s` seconds. With `replay`, that recording answers in the model's place.

        Raises ContractError `model_error` when there is no model, `sandbox_unavailable` when there is no address.
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
            message = "the platform does not tell the model gateway's address: try again soon"
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, message)
        claims = RunClaims(run_id, int(time.time() + lasts_s) + 1, replay=replay)
        return ModelGrant(url, mint(self._secret, claims))


def host_of(grant: ModelGrant) -> str:
    """The one host that the run's sandbox may reach, as `name` or `name:port`."""
    return urlsplit(grant.base_url).netloc

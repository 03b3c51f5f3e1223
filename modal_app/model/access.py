"""How runs get to the model: each is granted the gateway's address and a token of its own, for as long as it may live.

The endpoint signs tokens and never sees the model's key; the gateway has the key, and asks whether a run still lives.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import modal
from pydantic import SecretStr

from modal_app.actions.claude_action import ModelGrant
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.model.run_tokens import RunClaims, mint
from modal_app.runs.run_records import Records
from modal_app.runs.shared_state import SharedState
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS

NO_MODEL = ContractError(
    ErrorCode.MODEL_ERROR,
    "this endpoint has no model: set WORKBENCH_MODEL_UPSTREAM_KEY and deploy it again",
)
_LOOK_UP_S = 15.0
_KNOWN_S = 1.0  # a token is good for so long at most after its run's end
_MAX_KNOWN = 1000


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


def liveness(state: SharedState, *, clock: Callable[[], float] = time.monotonic) -> Callable[[str], Awaitable[bool]]:
    """A check whether a run goes on, by its record; an answer counts for a second. Platform errors are raised."""
    records = Records(state)
    known: dict[str, tuple[float, bool]] = {}

    async def is_live(run_id: str) -> bool:
        at, live = known.get(run_id, (float("-inf"), False))
        if clock() - at < _KNOWN_S:
            return live
        asked_at = clock()
        record = await records.get(run_id)
        live = record is not None and record.state == "open"
        if len(known) >= _MAX_KNOWN:
            known.clear()
        known[run_id] = (asked_at, live)
        return live

    return is_live

"""Calls the local cloud's own HTTP interface, with the same token that the SDK uses. Blocking calls."""

from collections.abc import Mapping
from typing import Any

import httpx

from workbench.errors import WorkbenchError

TIMEOUT_S = 60.0


class CloudRefusedError(WorkbenchError):
    """The local cloud refuses or does not answer; the message says why. `status` is the HTTP status, 0: no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class CloudHttp:
    """The address and the credentials of one local cloud."""

    def __init__(self, url: str, env: Mapping[str, str]) -> None:
        self._url = url
        self._headers = {
            "x-modal-token-id": env["MODAL_TOKEN_ID"],
            "x-modal-token-secret": env["MODAL_TOKEN_SECRET"],
        }

    def ask(self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None) -> bytes:
        """Make one request and return the answer's body. Raises CloudRefusedError, within TIMEOUT_S seconds."""
        try:
            response = httpx.request(
                method,
                self._url + path,
                params=params,
                json=body,
                headers=self._headers,
                timeout=TIMEOUT_S,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            message = f"the local cloud does not answer ({type(error).__name__}): see `workbench cloud status`"
            raise CloudRefusedError(message) from error
        if response.is_success:
            return response.content
        try:
            message = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            message = f"the local cloud answered HTTP {response.status_code}"
        raise CloudRefusedError(message, response.status_code)

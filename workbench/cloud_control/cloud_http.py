"""Asks a local cloud's own HTTP side, with the token that the SDK shows. Blocking calls."""

from collections.abc import Mapping
from typing import Any

import httpx

from workbench.errors import WorkbenchError

TIMEOUT_S = 60.0


class CloudRefusedError(WorkbenchError):
    """The local cloud says no, or does not answer; the message says why. `status` is HTTP's, 0 for no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class CloudHttp:
    """One cloud's address and credentials."""

    def __init__(self, url: str, env: Mapping[str, str]) -> None:
        self._url = url
        self._headers = {
            "x-modal-token-id": env["MODAL_TOKEN_ID"],
            "x-modal-token-secret": env["MODAL_TOKEN_SECRET"],
        }

    def ask(self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None) -> bytes:
        """One request; returns the answer's bytes. Raises CloudRefusedError, after TIMEOUT_S seconds at the latest."""
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
            raise CloudRefusedError(f"the local cloud does not answer: {type(error).__name__}") from error
        if response.is_success:
            return response.content
        try:
            message = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            message = f"the local cloud answered HTTP {response.status_code}"
        raise CloudRefusedError(message, response.status_code)

"""Calls the local cloud's own HTTP interface, with the same token that the SDK uses. Blocking calls."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

from workbench.errors import WorkbenchError
from workbench.local_cloud import VERSION_HEADER, code_digest

TIMEOUT_S = 60.0
_ANOTHER_VERSION = (
    "the local cloud that runs is of another version than this workbench: end it, and all that runs in it, with "
    "`workbench cloud stop`, and start this one with `workbench cloud start`"
)

T = TypeVar("T")


class CloudRefusedError(WorkbenchError):
    """The local cloud refuses or does not answer; the message says why.

    `status` is the HTTP status of a route that gives its reason, else 0: nothing answers, or there is no such route.
    """

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

    def ask(
        self,
        method: str,
        path: str,
        read: Callable[[bytes], T],
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> T:
        """Make one request and return what `read` makes of the answer's body; it may raise a ValueError or KeyError.

        Raises CloudRefusedError, within TIMEOUT_S seconds. It says so when the cloud that refuses, or whose answer
        cannot be read, is of another version.
        """
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
            try:
                return read(response.content)
            except (ValueError, KeyError, TypeError) as error:
                message = f"the local cloud's answer to {method} {path} cannot be read ({type(error).__name__})"
                raise CloudRefusedError(_versions(message, response)) from error
        try:
            message, status = str(response.json()["error"]), response.status_code
        except (ValueError, KeyError, TypeError):
            message, status = f"the local cloud answered HTTP {response.status_code} to {method} {path}", 0
        raise CloudRefusedError(_versions(message, response), status)


def _versions(message: str, response: httpx.Response) -> str:
    """The message, and whether another version may be the cause of what it says."""
    same = response.headers.get(VERSION_HEADER) == code_digest()
    return message if same else f"{message} ({_ANOTHER_VERSION})"

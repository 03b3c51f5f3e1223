"""Answers that the gateway gives itself, in the service's own form, so that every client understands them."""

from collections.abc import Mapping

from starlette.responses import JSONResponse

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


_MAX_SHOWN_CHARS = 60


def shown(value: object) -> str:
    """Something that a sandbox has sent, to be named in a sentence."""
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"


class Refusal(Exception):  # noqa: N818  # an answer, and not always somebody's error
    """An error answer; the message may be read by the sandbox."""

    def __init__(self, status: int, message: str, *, reason: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, object]:
        """The service's form of an error."""
        return {"type": "error", "error": {"type": ERROR_TYPES.get(self.status, "api_error"), "message": self.message}}

    def response(self) -> JSONResponse:
        """The answer."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return JSONResponse(self.body(), self.status, headers)

"""Error answers that the gateway gives itself, in the form of the service's own, so that every client reads them."""

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
    """A value that a sandbox has sent, as escaped ASCII of at most 60 characters, to be quoted in a message."""
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"


class Refusal(Exception):  # noqa: N818  # it becomes an answer, and is not always an error of the gateway
    """A request is answered with an error: the HTTP `status`, and a `message` that the sandbox reads.

    `reason` is a word for the log; `retry_after_s` becomes the header Retry-After.
    """

    def __init__(self, status: int, message: str, *, reason: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, object]:
        """The JSON body, in the service's form."""
        return {"type": "error", "error": {"type": ERROR_TYPES.get(self.status, "api_error"), "message": self.message}}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return JSONResponse(self.body(), self.status, headers)

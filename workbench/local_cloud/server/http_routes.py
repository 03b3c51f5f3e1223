"""What the cloud's own HTTP routes have in common: authentication, and how they report failures.

They speak JSON. A request carries the SDK's token in the same headers as an RPC does. A failure is `{"error": …}` with
the status 400, 401, 404 or 409.
"""

from collections.abc import Awaitable, Callable

import structlog
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from workbench.local_cloud.base.errors import CloudError, Reason, invalid
from workbench.local_cloud.server.callers import Authenticator
from workbench.local_cloud.server.statuses import http_status
from workbench.local_cloud.store.damage import is_disk_full

_log = structlog.get_logger(__name__)

_MAX_BODY_BYTES = 64 * 1024

Endpoint = Callable[[Request], Awaitable[Response]]


def for_clients(authenticator: Authenticator, answer: Endpoint) -> Endpoint:
    """Wrap an endpoint: requests without the client's token are refused, and CloudErrors become JSON answers."""

    async def endpoint(request: Request) -> Response:
        try:
            if authenticator.identify(request.headers).kind != "client":
                raise CloudError(
                    Reason.UNAUTHENTICATED, "A function container may not use this route: it takes a person's token."
                )
            return await answer(request)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
            return JSONResponse({"error": f"{where}: {what}" if where else what}, 400)
        except CloudError as error:
            return JSONResponse({"error": error.message}, http_status(error.reason))

    return endpoint


async def small_body(request: Request) -> bytes:
    """The request's body. Raises CloudError INVALID_ARGUMENT for one of more than 64 KiB."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > _MAX_BODY_BYTES:
            raise invalid(f"The request's body is at most {_MAX_BODY_BYTES} bytes, this one is longer.")
    return data


async def on_full_disk(request: Request, error: Exception) -> Response:
    """Answer 507 for an error that means a full disk; raises every other error again."""
    if not is_disk_full(error):
        raise error
    _log.error("http.disk_full", path=request.url.path, exc_info=error)
    return PlainTextResponse("the disk that holds the local cloud's state is full: make room there and try again", 507)

"""Signed, expiring links.

Whoever holds one may do the one thing it names, once the signature and the time are checked.
"""

import hashlib
import hmac
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

_TTL_S = 3600
_RESERVED = ("expires", "signature")


class Links:
    """Makes and checks links below one base URL, which is known once the server listens."""

    def __init__(self, signing_key: bytes, base_url: Callable[[], str]) -> None:
        self._key = signing_key
        self._base_url = base_url

    def make(self, method: str, path: str, **claims: int) -> str:
        """Return a URL that allows `method` on `path` for an hour; the claims are part of what is signed."""
        query = {**{name: str(value) for name, value in claims.items()}, "expires": str(int(time.time()) + _TTL_S)}
        text = "&".join(f"{name}={value}" for name, value in query.items())
        return f"{self._base_url()}{path}?{text}&signature={self._sign(method, path, query)}"

    def refusal(self, request: Request) -> Response | None:
        """Return the answer to a request whose link is not good, None for a good one."""
        query = {name: value for name, value in request.query_params.items() if name not in _RESERVED}
        expires = request.query_params.get("expires", "")
        query["expires"] = expires
        method = "GET" if request.method == "HEAD" else request.method
        signature = request.query_params.get("signature", "")
        if not hmac.compare_digest(self._sign(method, request.url.path, query).encode(), signature.encode()):
            return PlainTextResponse("this link is not signed by this local cloud", 403)
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16) or int(expires) < time.time():
            return PlainTextResponse("this link has expired", 403)
        return None

    def _sign(self, method: str, path: str, query: dict[str, str]) -> str:
        parts = [method, path, *(f"{name}={value}" for name, value in sorted(query.items()))]
        return hmac.new(self._key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()

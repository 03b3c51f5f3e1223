"""Signed links that expire: whoever holds one may make one request, and no other.

A link carries a JSON Web Token (RFC 7519) over its method, path and query.
"""

import time
from collections.abc import Callable
from urllib.parse import urlencode

import jwt
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

_TTL_S = 3600
_AUDIENCE = "link"  # a token that the same key has signed for something else is no link
_TOKEN = "link"  # noqa: S105  # the query parameter that has it


class Links:
    """Makes and checks links below one base URL, which is known once the server listens."""

    def __init__(self, signing_key: bytes, base_url: Callable[[], str]) -> None:
        self._key = signing_key
        self._base_url = base_url

    def make(self, method: str, path: str, **query: int) -> str:
        """Return a URL that allows `method` on `path` with this query for an hour."""
        text = {name: str(value) for name, value in query.items()}
        claims = {"aud": _AUDIENCE, "exp": int(time.time()) + _TTL_S, "method": method, "path": path, "query": text}
        token = jwt.encode(claims, self._key, "HS256")
        return f"{self._base_url()}{path}?{urlencode({**text, _TOKEN: token})}"

    def refusal(self, request: Request) -> Response | None:
        """Return the answer to a request whose link is not good, None for a good one. HEAD passes where GET does."""
        query = sorted(request.query_params.multi_items())
        token = request.query_params.get(_TOKEN, "")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["HS256"],
                audience=_AUDIENCE,
                options={"require": ["aud", "exp", "method", "path", "query"]},
            )
        except jwt.ExpiredSignatureError:
            return PlainTextResponse("this link has expired: ask for a new one", 403)
        except jwt.InvalidTokenError:
            return PlainTextResponse("this link is not signed by this local cloud", 403)
        method = "GET" if request.method == "HEAD" else request.method
        signed = (claims["method"], claims["path"], sorted({**claims["query"], _TOKEN: token}.items()))
        if signed != (method, request.url.path, query):
            return PlainTextResponse("this link is signed for another request", 403)
        return None

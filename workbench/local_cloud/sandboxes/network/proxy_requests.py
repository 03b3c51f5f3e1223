"""Parses a guest's request to its proxy, and builds the request that is sent on. No I/O; the input is hostile.

A request is never sent on as it came, but built anew from its parts, so that all servers on its way read it alike.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_HTTP_PORT = 80

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Target:
    """The host and port that a guest wants to connect to; as text it is safe for a log."""

    host: str
    port: int

    @property
    def shown(self) -> str:
        """The host in printable ASCII, at most 253 characters."""
        return "".join(character if " " < character < "\x7f" else "?" for character in self.host[:253])

    def __str__(self) -> str:
        return f"{self.shown}:{self.port}"


def tunnel_target(request: h11.Request) -> Target:
    """Return the host and port of a CONNECT request; raises h11.RemoteProtocolError."""
    try:
        parts = urlsplit(f"//{request.target.decode('ascii')}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.username is not None or parts.path or parts.query or parts.fragment:
        raise h11.RemoteProtocolError("CONNECT needs host:port", error_status_hint=400)
    return Target(host, port)


def outgoing(request: h11.Request) -> tuple[Target, h11.Request]:
    """Return the target of a plain request, and the request to send there; raises h11.RemoteProtocolError."""
    try:
        parts = urlsplit(request.target.decode("ascii"))
        host, port = parts.hostname, _HTTP_PORT if parts.port is None else parts.port
    except ValueError:
        host, port = None, 0
    if not host or not port or parts.scheme.lower() != "http" or parts.username is not None:
        raise h11.RemoteProtocolError("it needs an absolute http:// URL, or CONNECT", error_status_hint=400)
    if {name for name, _ in request.headers} >= _FRAMING:  # RFC 9112, 6.1: servers disagree about which one counts
        raise h11.RemoteProtocolError("it has both Content-Length and Transfer-Encoding", error_status_hint=400)
    target = Target(host, port)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authority = f"[{host}]" if ":" in host else host
    if port != _HTTP_PORT:
        authority = f"{authority}:{port}"
    kept = [(name, value) for name, value in end_to_end(request) if name != b"host" and not name.startswith(b"proxy-")]
    headers = [(b"Host", authority.encode()), (b"Connection", b"close"), *kept]
    try:
        return target, h11.Request(method=request.method, target=path.encode(), headers=headers)
    except h11.LocalProtocolError:
        raise h11.RemoteProtocolError("its URL has no valid host", error_status_hint=400) from None


def end_to_end(message: h11.Request | h11.Response) -> Headers:
    """Return the headers that are passed on: all but the hop-by-hop ones and those that `Connection` names."""
    named = {
        word.strip().lower() for name, value in message.headers if name == b"connection" for word in value.split(b",")
    }
    dropped = (named - _FRAMING) | _HOP_BY_HOP
    return [(name, value) for name, value in message.headers if name not in dropped]

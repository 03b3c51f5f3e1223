"""What a guest asks its proxy for, and what of that is passed on. No I/O; the input is hostile.

A request is taken apart here and put together anew, so that it means one thing to everybody on its way.
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
    """Where a guest wants to go; as text fit for a log."""

    host: str
    port: int

    @property
    def shown(self) -> str:
        """The host in printable ASCII, cut to the length of a name."""
        return "".join(character if " " < character < "\x7f" else "?" for character in self.host[:253])

    def __str__(self) -> str:
        return f"{self.shown}:{self.port}"


def tunnel_target(request: h11.Request) -> Target:
    """Host and port of a CONNECT request; raises h11.RemoteProtocolError."""
    try:
        parts = urlsplit(f"//{request.target.decode('ascii')}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.username is not None or parts.path or parts.query or parts.fragment:
        raise h11.RemoteProtocolError("not host:port", error_status_hint=400)
    return Target(host, port)


def outgoing(request: h11.Request) -> tuple[Target, h11.Request]:
    """Target of a plain request and what is said there; raises h11.RemoteProtocolError."""
    try:
        parts = urlsplit(request.target.decode("ascii"))
        host, port = parts.hostname, _HTTP_PORT if parts.port is None else parts.port
    except ValueError:
        host, port = None, 0
    if not host or not port or parts.scheme.lower() != "http" or parts.username is not None:
        raise h11.RemoteProtocolError("not an absolute http URL", error_status_hint=400)
    if {name for name, _ in request.headers} >= _FRAMING:  # RFC 9112 6.1: ends differ in which one they believe
        raise h11.RemoteProtocolError("two framings", error_status_hint=400)
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
        raise h11.RemoteProtocolError("not a host", error_status_hint=400) from None


def end_to_end(message: h11.Request | h11.Response) -> Headers:
    """The headers that are not for this hop, among them those that `Connection` names."""
    named = {
        word.strip().lower() for name, value in message.headers if name == b"connection" for word in value.split(b",")
    }
    dropped = (named - _FRAMING) | _HOP_BY_HOP
    return [(name, value) for name, value in message.headers if name not in dropped]

"""Connect tokens: HTTP requests to a port of a sandbox, each of which must have a valid token.

A token is valid for one port of one sandbox, until the sandbox ends. It may be in `Authorization: Bearer`, in the query
parameter `_modal_connect_token`, or in the cookie of that name, which is set when it came in the query. None of these
is passed on to the sandbox. The header `X-Verified-User-Data` that the program gets is always what the token was made
with. Unlike on Modal, the address is plain HTTP at a loopback address of the sandbox's own.
"""

import asyncio
import hashlib
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

import h11

from workbench.local_cloud.base.listeners import BoundedListener
from workbench.local_cloud.base.ports import listen
from workbench.local_cloud.sandboxes.network.proxy_requests import Headers, end_to_end
from workbench.local_cloud.sandboxes.network.relay import (
    CHUNK_BYTES,
    Stream,
    UnansweredError,
    finish,
    forward,
    join,
    next_event,
    send_answer,
)
from workbench.local_cloud.sandboxes.network.tunnels import Visit

PARAMETER = "_modal_connect_token"
USER_HEADER = b"x-verified-user-data"
MAX_TOKENS = 1000  # per sandbox
CONNECTIONS_AT_ONCE = 64
MAX_HEAD_BYTES = 64 * 1024
HEAD_S = 10.0
IDLE_S = 300.0


@dataclass(frozen=True)
class Grant:
    """What a token allows: requests to `port`. `user` is the value of X-Verified-User-Data, empty for none."""

    port: int
    user: str


class ConnectEntry:
    """Serves the requests with connect tokens to one sandbox, from its first token on until it is closed."""

    def __init__(self, host: str, visit: Visit) -> None:
        """`host` is the loopback address to listen at; `visit` connects to a port of the sandbox."""
        self._host = host
        self._visit = visit
        self._grants: dict[bytes, Grant] = {}  # by the token's hash, so that comparing reveals nothing by its timing
        self._clients: BoundedListener | None = None
        self._port = 0

    def admit(self, grant: Grant) -> tuple[str, str]:
        """Make a token and return (URL, token).

        Raises ValueError when the sandbox has `MAX_TOKENS` already, OSError when the port cannot be opened.
        """
        if len(self._grants) >= MAX_TOKENS:
            raise ValueError(f"a sandbox has at most {MAX_TOKENS} connect tokens, and this one has them: reuse one")
        if self._clients is None:
            listener = listen(0, host=self._host)
            self._port = listener.getsockname()[1]
            self._clients = BoundedListener(listener, self._serve, at_once=CONNECTIONS_AT_ONCE)
        token = secrets.token_urlsafe(32)
        self._grants[_key(token)] = grant
        return f"http://{self._host}:{self._port}", token

    async def aclose(self) -> None:
        """Revoke every token and close every connection. Idempotent."""
        self._grants.clear()
        if self._clients is not None:
            await self._clients.aclose()

    async def _serve(self, connection: socket.socket) -> None:
        client = await asyncio.open_connection(sock=connection, limit=CHUNK_BYTES)
        try:
            await self._answer(client)
            await finish(client, idle_s=IDLE_S)
        finally:
            client[1].transport.abort()

    async def _answer(self, client: Stream) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            async with asyncio.timeout(HEAD_S):
                request = await next_event(http, client[0])
            if not isinstance(request, h11.Request):
                return
            token, by_query = shown_token(request)
            grant = self._grants.get(_key(token))
            if grant is None:
                send_answer(http, client[1], 401, "a valid connect token of this sandbox is needed")
                return
            upgrade = _wants_upgrade(request)
            ours = passed_on(request, grant, upgrade=upgrade)
            async with self._visit(grant.port) as inside:
                far = await asyncio.open_connection(sock=inside, limit=CHUNK_BYTES)
                if upgrade:
                    await _upgrade(http, client, ours, far)
                    return
                cookie = f"{PARAMETER}={token}; Path=/; HttpOnly; SameSite=Lax".encode()
                extra = [(b"Set-Cookie", cookie)] if by_query else []
                await forward(http, client, ours, far, idle_s=IDLE_S, extra=extra)
        except (h11.ProtocolError, ValueError) as error:
            status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
            send_answer(http, client[1], status, "the HTTP request is malformed and cannot be passed on")
        except (OSError, UnansweredError):
            send_answer(http, client[1], 502, "no program in the sandbox answers HTTP at the token's port")


def shown_token(request: h11.Request) -> tuple[str, bool]:
    """Return a request's token, empty without one, and whether it is in the query. Raises ValueError for a bad URL."""
    found = ""
    for name, value in request.headers:
        text = value.decode("latin-1")
        if name == b"authorization" and text[:7].lower() == "bearer ":
            return text[7:].strip(), False
        if name == b"cookie" and not found:
            pairs = dict(map(_named, reversed(value.split(b";"))))
            found = pairs.get(PARAMETER.encode(), b"").decode("latin-1")
    for key, shown in parse_qsl(_split(request.target)[1]):
        if key == PARAMETER:
            return shown, True
    return found, False


def passed_on(request: h11.Request, grant: Grant, *, upgrade: bool = False) -> h11.Request:
    """Return the request that is sent to the sandbox; raises h11.ProtocolError or ValueError for a malformed one."""
    names = {name for name, _ in request.headers}
    if names >= {b"content-length", b"transfer-encoding"}:  # RFC 9112, 6.1: servers disagree about which one counts
        raise h11.RemoteProtocolError("two framings", error_status_hint=400)
    path, asked = _split(request.target)
    target = path + (f"?{query}" if (query := _without_token(asked)) else "")
    headers: Headers = [(b"Connection", b"Upgrade" if upgrade else b"close")]
    for name, value in end_to_end(request):
        if name in (b"authorization", USER_HEADER) or name.replace(b"_", b"-") == USER_HEADER:
            continue
        if name == b"cookie":
            value = b";".join(pair for pair in value.split(b";") if _named(pair)[0] != PARAMETER.encode()).strip()
            if not value:
                continue
        headers.append((name, value))
    if upgrade:
        headers += [(name, value) for name, value in request.headers if name == b"upgrade"]
    if grant.user:
        headers.append((b"X-Verified-User-Data", grant.user.encode()))
    return h11.Request(method=request.method, target=target.encode(), headers=headers)


def _without_token(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    if all(name != PARAMETER for name, _ in pairs):
        return query
    return urlencode([(name, value) for name, value in pairs if name != PARAMETER])


def _named(pair: bytes) -> tuple[bytes, bytes]:
    """Return the name and the value of one cookie. Browsers send values that `http.cookies` does not take."""
    name, _, value = pair.partition(b"=")
    return name.strip(), value.strip().strip(b'"')


def _split(target: bytes) -> tuple[str, str]:
    """Return the path and the query of a request's target. A path may begin with `//`, which names no host there."""
    text = target.decode("ascii").partition("#")[0]
    if not text.startswith("/"):  # the absolute form, as proxies get it (RFC 9112, 3.2.2)
        parts = urlsplit(text)
        return parts.path or "/", parts.query
    path, _, query = text.partition("?")
    return path, query


def _wants_upgrade(request: h11.Request) -> bool:
    return any(name == b"upgrade" and value.lower() != b"h2c" for name, value in request.headers)


async def _upgrade(http: h11.Connection, client: Stream, request: h11.Request, far: Stream) -> None:
    """Send an upgrade request: if the program accepts it, relay bytes both ways, else pass its answer back.

    Raises UnansweredError, OSError.
    """
    far_http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    try:
        far[1].write((far_http.send(request) or b"") + (far_http.send(h11.EndOfMessage()) or b""))
        async with asyncio.timeout(IDLE_S):
            answer = await next_event(far_http, far[0])
        if isinstance(answer, h11.Response):
            await _pass_answer(http, client, answer, far_http, far)
            return
        if not isinstance(answer, h11.InformationalResponse) or answer.status_code != 101:
            raise UnansweredError("it did not change the protocol")
        while (await next_event(http, client[0])) is not h11.PAUSED:
            pass  # reads the end of the request
        client[1].write(http.send(answer) or b"")
        client[1].write(far_http.trailing_data[0])
        far[1].write(http.trailing_data[0])
        await join(client, far, idle_s=IDLE_S)
    except h11.ProtocolError:
        raise UnansweredError("it did not change the protocol") from None
    finally:
        far[1].transport.abort()


async def _pass_answer(
    http: h11.Connection, client: Stream, answer: h11.Response, far_http: h11.Connection, far: Stream
) -> None:
    headers = [*end_to_end(answer), (b"Connection", b"close")]
    event: h11.Event | type[h11.PAUSED] = h11.Response(
        status_code=answer.status_code, headers=headers, reason=answer.reason
    )
    async with asyncio.timeout(IDLE_S):
        while isinstance(event, h11.Response | h11.Data):
            client[1].write(http.send(event) or b"")
            await client[1].drain()
            event = await next_event(far_http, far[0])
    if isinstance(event, h11.EndOfMessage):
        client[1].write(http.send(event) or b"")


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()

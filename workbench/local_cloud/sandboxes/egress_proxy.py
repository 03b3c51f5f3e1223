"""The one way out of a sandbox: an HTTP proxy on the host, behind a listening socket of the sandbox's own loopback.

Guests are hostile: heads are bounded in size and time, names are resolved here and once, the very address that was
checked is dialled, and bytes flow at the pace of the slower side. Programs that know no proxy have no network.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import h11

from workbench.local_cloud.sandboxes.egress_policy import Address, Allowed, EgressPolicy, Network, Refused

MAX_CONNECTIONS = 128
MAX_HEAD_BYTES = 64 * 1024
HEAD_S = 10.0
DIAL_S = 15.0
IDLE_S = 300.0
_CHUNK_BYTES = 64 * 1024
_CLOSE_S = 5.0
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"host"})

OnRefused = Callable[[str, int, str], None]
Resolve = Callable[[str, int], Awaitable[list[Address]]]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[Address, int], Awaitable[Stream]]


class _UnreachableError(Exception):
    """The far side could not be found or dialled; a guest may be told so."""


class _RefusedError(Exception):
    """The policy does not allow the target; the guest sees a connection that ends, as with any closed network."""


@dataclass(frozen=True)
class _Target:
    host: str
    port: int

    def __str__(self) -> str:
        shown = "".join(character if character.isprintable() else "?" for character in self.host[:253])
        return f"{shown}:{self.port}"


def proxy_env(port: int) -> dict[str, str]:
    """The variables by which curl, git, pip, npm and Python find the proxy."""
    url = f"http://127.0.0.1:{port}"
    local = "localhost,127.0.0.1,::1"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    return {**dict.fromkeys(names, url), "NO_PROXY": local, "no_proxy": local, "NODE_USE_ENV_PROXY": "1"}


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a name; raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(address[0].partition("%")[0]) for *_, address in found if isinstance(address[0], str)]


async def dial(address: Address, port: int) -> Stream:
    """A connection to an address; raises OSError."""
    return await asyncio.open_connection(str(address), port, limit=_CHUNK_BYTES)


class EgressProxy:
    """Serves one sandbox until it is closed."""

    def __init__(
        self,
        listener: socket.socket,
        policy: EgressPolicy,
        *,
        on_refused: OnRefused,
        test_networks: Sequence[Network] = (),
        resolve: Resolve = resolve,
        dial: Dial = dial,
        head_s: float = HEAD_S,
        idle_s: float = IDLE_S,
    ) -> None:
        """`listener` is taken over; `on_refused` gets host, port and reason of each refusal."""
        self._listener = listener
        self._policy = policy
        self._on_refused = on_refused
        self._test_networks = tuple(test_networks)
        self._resolve = resolve
        self._dial = dial
        self._head_s = head_s
        self._idle_s = idle_s
        self._server: asyncio.Server | None = None
        self._guests: set[asyncio.Task[None]] = set()
        self._flows: dict[asyncio.Task[None], tuple[_Target, Address]] = {}

    async def start(self) -> None:
        """Begin to serve."""
        self._server = await asyncio.start_server(self._accept, sock=self._listener, limit=_CHUNK_BYTES)

    def set_policy(self, policy: EgressPolicy) -> None:
        """Decide by another policy from now on; connections that it would not allow are cut."""
        self._policy = policy
        for task, (target, address) in list(self._flows.items()):
            if isinstance(self._verdict(target, [address]), Refused):
                task.cancel()

    async def aclose(self) -> None:
        """Stop serving and cut every connection. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._listener.close()
        for task in list(self._guests):
            task.cancel()
        if self._guests:
            await asyncio.wait(list(self._guests), timeout=_CLOSE_S)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._guests) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._guests.add(task)
        task.add_done_callback(self._guests.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            async with asyncio.timeout(self._head_s):
                request = await _next(connection, reader)
            if not isinstance(request, h11.Request):
                return
            if request.method == b"CONNECT":
                await self._tunnel(request, connection, (reader, writer))
            else:
                await self._forward(request, connection, (reader, writer))
        except _UnreachableError as error:
            _answer(connection, writer, 502, str(error))
        except h11.RemoteProtocolError as error:
            _answer(connection, writer, error.error_status_hint, "the proxy does not understand this")
        except (_RefusedError, OSError, TimeoutError, h11.LocalProtocolError):
            pass  # there is nobody to tell
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        await _end(writer)

    async def _tunnel(self, request: h11.Request, connection: h11.Connection, guest: Stream) -> None:
        reader, writer = guest
        if not isinstance(await _next(connection, reader), h11.EndOfMessage):
            raise h11.RemoteProtocolError("a CONNECT with a body", error_status_hint=400)
        far_reader, far_writer = await self._reach(_authority(request.target.decode("ascii", "replace")))
        try:
            data = connection.send(h11.Response(status_code=200, headers=[], reason=b"connected"))
            writer.write(data or b"")
            early, _ = connection.trailing_data
            far_writer.write(early)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, far_writer))
                group.create_task(self._copy(far_reader, writer))
        except* (OSError, TimeoutError):
            pass  # either side may leave when it likes
        finally:
            far_writer.transport.abort()

    async def _forward(self, request: h11.Request, connection: h11.Connection, guest: Stream) -> None:
        """Pass one plain HTTP request on, taken apart and put together again, so that nothing is smuggled."""
        reader, writer = guest
        target, path = _absolute(request.target.decode("ascii", "replace"))
        far_reader, far_writer = await self._reach(target)
        far = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            kept = [
                (name, value)
                for name, value in request.headers
                if name not in _HOP_BY_HOP and not name.startswith(b"proxy-")
            ]
            host = f"[{target.host}]" if ":" in target.host else target.host
            authority = host if target.port == 80 else f"{host}:{target.port}"
            headers = [(b"Host", authority.encode()), (b"Connection", b"close"), *kept]
            outgoing = h11.Request(method=request.method, target=path.encode(), headers=headers)
            far_writer.write(far.send(outgoing) or b"")
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._pass_on(connection, reader, far, far_writer))
                await self._pass_back(far, far_reader, connection, writer)
                sending.cancel()
        except* (OSError, TimeoutError, h11.ProtocolError):
            pass  # the answer is cut off: its length tells the guest
        finally:
            far_writer.transport.abort()

    async def _pass_on(
        self,
        connection: h11.Connection,
        reader: asyncio.StreamReader,
        far: h11.Connection,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        while True:
            event = await _next(connection, reader)
            if isinstance(event, h11.Data | h11.EndOfMessage):
                far_writer.write(far.send(event) or b"")
                await far_writer.drain()
            if not isinstance(event, h11.Data):
                return

    async def _pass_back(
        self,
        far: h11.Connection,
        far_reader: asyncio.StreamReader,
        connection: h11.Connection,
        writer: asyncio.StreamWriter,
    ) -> None:
        while True:
            async with asyncio.timeout(self._idle_s):
                event = await _next(far, far_reader)
            if isinstance(event, h11.InformationalResponse):
                continue
            if isinstance(event, h11.Response):
                kept = [(name, value) for name, value in event.headers if name not in _HOP_BY_HOP]
                headers = [*kept, (b"Connection", b"close")]
                event = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
            if not isinstance(event, h11.Response | h11.Data | h11.EndOfMessage):
                return
            writer.write(connection.send(event) or b"")
            async with asyncio.timeout(self._idle_s):
                await writer.drain()
            if isinstance(event, h11.EndOfMessage):
                return

    async def _reach(self, target: _Target) -> Stream:
        """Resolve, decide and dial; raises _RefusedError, _UnreachableError."""
        if self._policy.kind == "blocked":
            raise self._refusal(target, "the sandbox has no network")
        try:
            async with asyncio.timeout(DIAL_S):
                addresses = await self._resolve(target.host, target.port)
        except (OSError, TimeoutError, UnicodeError):
            raise _UnreachableError(f"{target} cannot be resolved") from None
        verdict = self._verdict(target, addresses)
        if isinstance(verdict, Refused):
            raise self._refusal(target, verdict.reason)
        for address in verdict.addresses:
            try:
                async with asyncio.timeout(DIAL_S):
                    stream = await self._dial(address, target.port)
            except (OSError, TimeoutError):
                continue
            task = asyncio.current_task()
            assert task is not None
            self._flows[task] = (target, address)
            task.add_done_callback(lambda done: self._flows.pop(done, None))
            return stream
        raise _UnreachableError(f"{target} cannot be reached")

    def _verdict(self, target: _Target, addresses: Sequence[Address]) -> Allowed | Refused:
        return self._policy.verdict(target.host, target.port, addresses, test_networks=self._test_networks)

    def _refusal(self, target: _Target, reason: str) -> _RefusedError:
        self._on_refused(str(target).rpartition(":")[0], target.port, reason)
        return _RefusedError(reason)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(self._idle_s):
                data = await reader.read(_CHUNK_BYTES)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    """The next event of a connection; raises h11.RemoteProtocolError, OSError."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(_CHUNK_BYTES))
    return event


def _answer(connection: h11.Connection, writer: asyncio.StreamWriter, status: int, text: str) -> None:
    """Say why nothing comes, where the connection still allows it."""
    body = text.encode() + b"\n"
    headers = [
        (b"Content-Type", b"text/plain"),
        (b"Content-Length", str(len(body)).encode()),
        (b"Connection", b"close"),
    ]
    with contextlib.suppress(h11.LocalProtocolError, OSError):
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")


async def _end(writer: asyncio.StreamWriter) -> None:
    """Close once what was written has gone, or after a while."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await writer.wait_closed()
    writer.transport.abort()


def _authority(text: str) -> _Target:
    """Host and port of a CONNECT request; raises h11.RemoteProtocolError."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.username is not None or parts.path:
        raise h11.RemoteProtocolError("not host:port", error_status_hint=400)
    return _Target(host, port)


def _absolute(text: str) -> tuple[_Target, str]:
    """Target and path of a request to a proxy; raises h11.RemoteProtocolError."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme.lower() != "http" or parts.username is not None:
        raise h11.RemoteProtocolError("not an absolute http URL", error_status_hint=400)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Target(host, port), path

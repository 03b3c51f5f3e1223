"""Tunnels: ports of a sandbox that programs on this machine can connect to, at a loopback address.

Unlike on Modal, nothing is public. Each sandbox has a loopback address of its own, so that a browser separates what it
stores for one sandbox from what it stores for others and for other local programs. `Tunnel.url` begins with `https://`
as on Modal, but the certificate is self-signed; the same port also serves clients that speak plain HTTP. An unencrypted
port passes bytes on as they are.
"""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address

from workbench.local_cloud.base.listeners import BoundedListener
from workbench.local_cloud.base.ports import listen
from workbench.local_cloud.sandboxes.network.relay import CHUNK_BYTES, Stream, finish, join
from workbench.local_cloud.sandboxes.network.tunnel_certificate import server_context

MAX_PORTS = 16  # per sandbox
CONNECTIONS_AT_ONCE = 64  # per port
IDLE_S = 3600.0  # a connection on which nothing moves for so long is closed
HANDSHAKE_S = 10.0
_FIRST_BYTE_S = 1.0  # a client that sends nothing for so long speaks no TLS: it waits for the server to begin
_TLS_HANDSHAKE = 0x16  # the first byte of every TLS connection (RFC 8446, 5.1)

Visit = Callable[[int], AbstractAsyncContextManager[socket.socket]]  # connects to a port inside (`Sandbox.visit`)


@dataclass(frozen=True)
class PortSpec:
    """A port of a sandbox to open: `unencrypted` adds a raw TCP port, `h2` offers HTTP/2 to TLS clients."""

    port: int
    unencrypted: bool = False
    h2: bool = False


@dataclass(frozen=True)
class Tunnel:
    """The address of a sandbox's port `inside_port`; `raw_port` is 0 without an unencrypted port."""

    inside_port: int
    host: str
    port: int
    raw_port: int


class Tunnels:
    """The tunnels of one sandbox, at the loopback address `host`; `open` lists them."""

    def __init__(self, sandbox_id: str, visit: Visit) -> None:
        """`visit` connects to a port of the sandbox."""
        self.host = loopback_address(sandbox_id)
        self.open: list[Tunnel] = []
        self._visit = visit
        self._listeners: list[BoundedListener] = []

    def add(self, specs: Sequence[PortSpec]) -> None:
        """Open a tunnel for each port; raises OSError when this machine has no free port."""
        for spec in specs:
            context = server_context(self.host, "h2" if spec.h2 else "http/1.1")
            port = self._listen(partial(self._serve, spec.port, context))
            raw_port = self._listen(partial(self._serve, spec.port, None)) if spec.unencrypted else 0
            self.open.append(Tunnel(spec.port, self.host, port, raw_port))

    async def aclose(self) -> None:
        """Close every tunnel and its connections. Idempotent."""
        await asyncio.gather(*(listener.aclose() for listener in self._listeners))

    def _listen(self, serve: Callable[[socket.socket], Awaitable[None]]) -> int:
        listener = listen(0, host=self.host)
        port: int = listener.getsockname()[1]
        self._listeners.append(BoundedListener(listener, serve, at_once=CONNECTIONS_AT_ONCE))
        return port

    async def _serve(self, port: int, context: ssl.SSLContext | None, connection: socket.socket) -> None:
        encrypted = context is not None and await _speaks_tls(connection)
        async with self._visit(port) as inside:
            client = await _stream(connection, context if encrypted else None)
            try:
                await join(client, await _stream(inside, None), idle_s=IDLE_S)
                await finish(client, idle_s=IDLE_S)
            finally:
                client[1].transport.abort()


def loopback_address(sandbox_id: str) -> str:
    """Return a sandbox's address in 127.64.0.0/10, always the same for an id; other programs listen at 127.0.0.1."""
    number = int.from_bytes(hashlib.sha256(sandbox_id.encode()).digest()[:4], "big")
    return str(IPv4Address("127.64.0.0") + 1 + number % (2**22 - 2))


async def _speaks_tls(connection: socket.socket) -> bool:
    """Whether a client's first byte begins a TLS connection; the byte can still be read."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        async with asyncio.timeout(_FIRST_BYTE_S):
            await readable.wait()
        return connection.recv(1, socket.MSG_PEEK) == bytes([_TLS_HANDSHAKE])
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(connection)


async def _stream(connection: socket.socket, context: ssl.SSLContext | None) -> Stream:
    """Return the streams of a connected socket, after a TLS handshake as its server if `context` is given."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK_BYTES, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol, connection, ssl=context, ssl_handshake_timeout=HANDSHAKE_S if context else None
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

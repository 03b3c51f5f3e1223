"""The egress proxy: a sandbox's only connection to the network, an HTTP proxy at a port of its own loopback.

Guests are hostile, so request heads are limited in size and time, and a name is resolved once, here: the connection
goes to exactly the address that was checked. Bytes flow at the pace of the slower side. Programs that do not use a
proxy have no network.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import h11
import psutil

from workbench.local_cloud.base.listeners import BoundedListener
from workbench.local_cloud.sandboxes.network.egress_policy import Address, Allowed, EgressPolicy, Network, Refused
from workbench.local_cloud.sandboxes.network.proxy_requests import Target, outgoing, tunnel_target
from workbench.local_cloud.sandboxes.network.relay import (
    CHUNK_BYTES,
    Stream,
    UnansweredError,
    carry,
    finish,
    forward,
    next_event,
    send_answer,
)

MAX_CONNECTIONS = 128
MAX_HEAD_BYTES = 64 * 1024
HEAD_S = 10.0
DIAL_S = 15.0
IDLE_S = 300.0
_LOOKUPS_AT_ONCE = 4
_DIALLED_AT_MOST = 8  # addresses of one name that are tried, each with its own deadline

OnRefused = Callable[[str, int, str], None]  # gets host, port and reason
Resolve = Callable[[str, int], Awaitable[list[Address]]]
Dial = Callable[[Address, int], Awaitable[Stream]]


class _UnreachableError(Exception):
    """The target could not be resolved or connected to; the message may be shown to the guest."""


class _RefusedError(Exception):
    """The policy does not allow the target. The guest's connection is closed without an answer, as on Modal."""


def proxy_env(host: str, port: int) -> dict[str, str]:
    """Return the environment variables by which curl, git, pip, npm and Python find the proxy at an address."""
    url = f"http://{host}:{port}"
    local = "localhost,127.0.0.1,::1"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    return {**dict.fromkeys(names, url), "NO_PROXY": local, "no_proxy": local, "NODE_USE_ENV_PROXY": "1"}


def _addresses(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(address[0].partition("%")[0]) for *_, address in found if isinstance(address[0], str)]


def own_addresses() -> AbstractSet[Address]:
    """Return every IP address that this machine has now."""
    found = [address for interface in psutil.net_if_addrs().values() for address in interface]
    families = (socket.AF_INET, socket.AF_INET6)
    return {ip_address(item.address.partition("%")[0]) for item in found if item.family in families}


def _unmapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for: both lead to the same place."""
    return getattr(address, "ipv4_mapped", None) or address


async def dial(address: Address, port: int) -> Stream:
    """Connect to an address; raises OSError."""
    return await asyncio.open_connection(str(address), port, limit=CHUNK_BYTES)


class EgressProxy:
    """The egress proxy of one sandbox, from `start` until it is closed."""

    def __init__(
        self,
        listener: socket.socket,
        policy: EgressPolicy,
        *,
        on_refused: OnRefused,
        test_networks: Sequence[Network] = (),
        resolve: Resolve | None = None,
        dial: Dial = dial,
        own_addresses: Callable[[], AbstractSet[Address]] = own_addresses,
        head_s: float = HEAD_S,
        idle_s: float = IDLE_S,
    ) -> None:
        """`listener` is the socket in the sandbox, which is closed here; `on_refused` gets each refused connection.

        `resolve`, by default the system's resolver, raises OSError for a name that has no address. `head_s` limits the
        time of a request's head, `idle_s` that in which a connection moves no byte.
        """
        self._listener = listener
        self._policy = policy
        self._on_refused = on_refused
        self._test_networks = tuple(test_networks)
        self._resolve = resolve or self._look_up
        self._dial = dial
        self._own_addresses = own_addresses
        self._head_s = head_s
        self._idle_s = idle_s
        # Threads of its own: a guest can make lookups slow, and must not block the event loop's few threads by that.
        self._lookups = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="egress-names")
        self._clients: BoundedListener | None = None
        self._flows: dict[asyncio.Task[None], tuple[Target, Address]] = {}

    async def start(self) -> None:
        """Begin to accept connections."""
        self._listener.setblocking(False)
        self._clients = BoundedListener(self._listener, self._serve_connection, at_once=MAX_CONNECTIONS)

    def set_policy(self, policy: EgressPolicy) -> None:
        """Replace the policy; open connections that the new one does not allow are closed."""
        self._policy = policy
        for task, (target, address) in list(self._flows.items()):
            if isinstance(self._verdict(target, [address]), Refused):
                task.cancel()

    async def aclose(self) -> None:
        """Stop accepting and close every connection. Idempotent."""
        self._lookups.shutdown(wait=False, cancel_futures=True)
        if self._clients is not None:
            await self._clients.aclose()
        else:
            self._listener.close()

    async def _serve_connection(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=CHUNK_BYTES)
        try:
            await self._serve((reader, writer))
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, guest: Stream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            async with asyncio.timeout(self._head_s):
                request = await next_event(connection, guest[0])
                if not isinstance(request, h11.Request):
                    return
                tunnel = request.method == b"CONNECT"
                if tunnel and not isinstance(await next_event(connection, guest[0]), h11.EndOfMessage):
                    raise h11.RemoteProtocolError("a CONNECT with a body", error_status_hint=400)
            if tunnel:
                await carry(connection, guest, await self._reach(tunnel_target(request)), idle_s=self._idle_s)
            else:
                target, ours = outgoing(request)
                await forward(connection, guest, ours, await self._reach(target), idle_s=self._idle_s)
        except (_UnreachableError, UnansweredError) as error:
            send_answer(connection, guest[1], 502, str(error))
        except h11.RemoteProtocolError as error:
            text = f"the request is not one for an HTTP proxy: {error}"
            send_answer(connection, guest[1], error.error_status_hint, text)
        except (_RefusedError, OSError, TimeoutError, h11.LocalProtocolError):
            pass  # refused without an answer, or the guest is gone
        await finish(guest, idle_s=self._idle_s)

    async def _reach(self, target: Target) -> Stream:
        """Resolve a target, ask the policy and connect; raises _RefusedError, _UnreachableError."""
        if (refused := self._policy.before_resolving(target.host, target.port)) is not None:
            raise self._refusal(target, refused.reason)
        try:
            async with asyncio.timeout(DIAL_S):
                addresses = await self._resolve(target.host, target.port)
        except (OSError, TimeoutError, UnicodeError):
            raise _UnreachableError(f"{target} cannot be resolved") from None
        verdict = self._verdict(target, addresses)
        if isinstance(verdict, Refused):
            raise self._refusal(target, verdict.reason)
        for address in verdict.addresses[:_DIALLED_AT_MOST]:
            try:
                async with asyncio.timeout(DIAL_S):
                    stream = await self._dial(address, target.port)
            except (OSError, TimeoutError):
                continue
            now = self._verdict(target, [address])
            if isinstance(now, Refused):  # the policy has changed meanwhile
                stream[1].transport.abort()
                raise self._refusal(target, now.reason)
            task = asyncio.current_task()
            assert task is not None
            self._flows[task] = (target, address)
            task.add_done_callback(lambda done: self._flows.pop(done, None))
            return stream
        raise _UnreachableError(f"{target} cannot be reached")

    async def _look_up(self, host: str, port: int) -> list[Address]:
        return await asyncio.get_running_loop().run_in_executor(self._lookups, _addresses, host, port)

    def _verdict(self, target: Target, addresses: Sequence[Address]) -> Allowed | Refused:
        own = {_unmapped(address) for address in self._own_addresses()}
        addresses = [_unmapped(address) for address in addresses]
        exceptions = self._test_networks
        others = [
            address for address in addresses if address not in own or any(address in network for network in exceptions)
        ]
        if addresses and not others and self._policy.kind != "blocked":
            return Refused("it is an address of this machine")  # also a public one: from within, no firewall applies
        return self._policy.verdict(target.host, target.port, others, test_networks=exceptions)

    def _refusal(self, target: Target, reason: str) -> _RefusedError:
        self._on_refused(target.shown, target.port, reason)
        return _RefusedError(reason)

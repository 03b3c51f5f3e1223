"""Access from a sandbox to those web functions of this cloud that its allowlist names, and to nothing else here.

On Modal a web function has a public name, which a sandbox reaches like any other. Here its address is a port of this
machine's loopback, which no sandbox can reach. So a listener at the same port of the sandbox's own loopback relays
bytes to that port, as long as a web function is served there and the policy allows it. The guest cannot choose another
address.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from functools import partial

from workbench.local_cloud.base.listeners import BoundedListener
from workbench.local_cloud.sandboxes.network.relay import CHUNK_BYTES, finish, join

MAX_CONNECTIONS = 64  # per port
DIAL_S = 5.0
IDLE_S = 300.0

Serves = Callable[[int], bool]  # whether a web function is served at a port now
OnRefused = Callable[[str, int, str], None]  # gets host, port and reason


class WebFunctionAccess:
    """The listeners for web functions in one sandbox, until it is closed."""

    def __init__(self, serves: Serves, *, on_refused: OnRefused, idle_s: float = IDLE_S) -> None:
        self._serves = serves
        self._on_refused = on_refused
        self._idle_s = idle_s
        self._allowed: frozenset[int] = frozenset()
        self._opened: set[int] = set()
        self._listeners: list[BoundedListener] = []
        self._flows: dict[asyncio.Task[None], int] = {}

    def open(self, port: int, listener: socket.socket) -> None:
        """Serve a listener in the sandbox, which is closed here later, and allow its port."""
        self._opened.add(port)
        self._allowed |= {port}
        self._listeners.append(BoundedListener(listener, partial(self._serve, port), at_once=MAX_CONNECTIONS))

    def has(self, ports: Sequence[int]) -> bool:
        """Whether there is a listener for each of these ports."""
        return self._opened.issuperset(ports)

    def allow(self, ports: Sequence[int]) -> None:
        """Allow only these ports from now on; connections to other ones are closed."""
        self._allowed = frozenset(ports)
        for task, port in list(self._flows.items()):
            if port not in self._allowed:
                task.cancel()

    async def aclose(self) -> None:
        """Stop accepting and close every connection. Idempotent."""
        await asyncio.gather(*(listener.aclose() for listener in self._listeners))

    async def _serve(self, port: int, connection: socket.socket) -> None:
        if port not in self._allowed or not self._serves(port):
            self._on_refused("127.0.0.1", port, "it is not a web function that the sandbox's allowlist names")
            return
        task = asyncio.current_task()
        assert task is not None
        self._flows[task] = port
        guest = await asyncio.open_connection(sock=connection, limit=CHUNK_BYTES)
        try:
            async with asyncio.timeout(DIAL_S):
                far = await asyncio.open_connection("127.0.0.1", port, limit=CHUNK_BYTES)
            await join(guest, far, idle_s=self._idle_s)
            await finish(guest, idle_s=self._idle_s)
        finally:
            del self._flows[task]
            guest[1].transport.abort()

"""Accepts connections at a listening socket, a bounded number at once. Each has its own task; `aclose` closes them all.

Why not asyncio's server: a connection that it has accepted just before it is closed stays open, and nobody has it.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable

_CLOSE_S = 5.0
_FULL_S = 1.0  # how long no connection is accepted after the cloud had no descriptor left for one

Serve = Callable[[socket.socket], Awaitable[None]]


class BoundedListener:
    """Serves until it is closed; a connection that comes while `at_once` are served is closed at once."""

    def __init__(self, listener: socket.socket, serve: Serve, *, at_once: int) -> None:
        """`listener` is closed by this object from now on; a connection is closed when `serve` returns or raises."""
        self._listener = listener
        self._serve = serve
        self._at_once = at_once
        self._full: asyncio.TimerHandle | None = None
        self._open = True
        self._connections: set[asyncio.Task[None]] = set()
        self._listen()

    async def aclose(self) -> None:
        """Stop accepting and close every connection. Idempotent."""
        if self._open:
            self._open = False
            asyncio.get_running_loop().remove_reader(self._listener)
            if self._full is not None:
                self._full.cancel()
            self._listener.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=_CLOSE_S)

    def _listen(self) -> None:
        self._full = None
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            self._full = loop.call_later(_FULL_S, self._listen)
            return
        if len(self._connections) >= self._at_once:
            connection.close()
            return
        connection.setblocking(False)
        task = asyncio.ensure_future(self._serve_one(connection))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: connection.close())  # a task may be cancelled before its first step

    async def _serve_one(self, connection: socket.socket) -> None:
        try:
            await self._serve(connection)
        except (OSError, TimeoutError):
            pass  # either side may close its connection at any time

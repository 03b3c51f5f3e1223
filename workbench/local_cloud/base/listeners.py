"""Lets connections in at a listening socket: so many at once, each served by a task of its own, all cut at the end.

Not asyncio's server: what that has accepted when it is closed is lost in it, open.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable

_CLOSE_S = 5.0
_FULL_S = 1.0  # how long nobody is let in when the cloud has no descriptor left

Serve = Callable[[socket.socket], Awaitable[None]]


class BoundedListener:
    """Serves until it is closed; what comes while `at_once` connections are served is closed unheard."""

    def __init__(self, listener: socket.socket, serve: Serve, *, at_once: int) -> None:
        """`listener` is taken over; a connection is closed when `serve` returns or raises."""
        self._listener = listener
        self._serve = serve
        self._at_once = at_once
        self._full: asyncio.TimerHandle | None = None
        self._open = True
        self._guests: set[asyncio.Task[None]] = set()
        self._listen()

    async def aclose(self) -> None:
        """Let nobody in any more and cut every connection. Idempotent."""
        if self._open:
            self._open = False
            asyncio.get_running_loop().remove_reader(self._listener)
            if self._full is not None:
                self._full.cancel()
            self._listener.close()
        for task in list(self._guests):
            task.cancel()
        if self._guests:
            await asyncio.wait(list(self._guests), timeout=_CLOSE_S)

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
        if len(self._guests) >= self._at_once:
            connection.close()
            return
        connection.setblocking(False)
        task = asyncio.ensure_future(self._welcome(connection))
        self._guests.add(task)
        task.add_done_callback(self._guests.discard)
        task.add_done_callback(lambda _: connection.close())  # a task may be cancelled before its first step

    async def _welcome(self, connection: socket.socket) -> None:
        try:
            await self._serve(connection)
        except (OSError, TimeoutError):
            pass  # either side may leave when it likes

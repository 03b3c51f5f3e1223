"""Sockets of a sandbox's own loopback for the host, connected or listening: the agent makes them and hands them out.

What it hands out is a guest's gift: it is taken only for what was asked for, at the port that was asked for.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Sequence

DIAL_S = 5.0  # loopback answers at once; what does not has a full backlog or a stopped agent
MAX_WAITING = 256

Ask = Callable[[dict[str, object]], Awaitable[None]]


class Dials:
    """The connections of one sandbox that are asked for and not there yet."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[socket.socket]] = {}
        self._number = 0

    async def connect(self, ask: Ask, port: int) -> socket.socket:
        """A connection to 127.0.0.1:`port` inside, without blocking mode; raises OSError (TimeoutError is one)."""
        async with asyncio.timeout(DIAL_S):
            inside = await self._given(ask, {"op": "dial", "port": port})
            try:
                await _connected(inside)
                if inside.getpeername() != ("127.0.0.1", port):
                    raise ConnectionRefusedError("the sandbox gave a connection to something else")
            except BaseException:
                inside.close()
                raise
        return inside

    async def listen(self, ask: Ask, port: int) -> socket.socket:
        """A socket that listens at 127.0.0.1:`port` inside, without blocking mode; raises OSError."""
        async with asyncio.timeout(DIAL_S):
            inside = await self._given(ask, {"op": "listen", "port": port})
        if not inside.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or inside.getsockname() != (
            "127.0.0.1",
            port,
        ):
            inside.close()
            raise ConnectionRefusedError("the sandbox does not listen where it was told to")
        return inside

    async def _given(self, ask: Ask, order: dict[str, object]) -> socket.socket:
        """The TCP socket that the agent hands out for an order."""
        if len(self._waiting) >= MAX_WAITING:
            raise ConnectionRefusedError("too many connections are waiting for the sandbox")
        self._number += 1
        number = self._number
        given: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._waiting[number] = given
        try:
            await ask({**order, "number": number})
            return await asyncio.shield(given)
        except BaseException:
            if given.done() and not given.cancelled() and given.exception() is None:
                given.result().close()
            given.cancel()
            raise
        finally:
            self._waiting.pop(number, None)

    def take(self, number: int, descriptors: Sequence[int]) -> None:
        """Take what the agent answers; without a descriptor it is a refusal. Raises ValueError, KeyError, OSError."""
        given = self._waiting.pop(number)
        if given.done():
            return
        try:
            given.set_result(_tcp_socket(descriptors[0]))
        except (IndexError, ValueError, OSError) as error:
            given.set_exception(ConnectionRefusedError(f"the sandbox gave no connection: {error}"))
            given.exception()  # its waiter may have gone

    def give_up(self) -> None:
        """The sandbox has ended: nobody will answer."""
        for given in self._waiting.values():
            if not given.done():
                given.set_exception(ConnectionRefusedError("the sandbox has ended"))
                given.exception()


def _tcp_socket(descriptor: int) -> socket.socket:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise ValueError("not a socket")
    found = socket.socket(fileno=os.dup(descriptor))
    if found.family != socket.AF_INET or found.type != socket.SOCK_STREAM:
        found.close()
        raise ValueError("not a TCP socket")
    found.setblocking(False)
    return found


async def _connected(inside: socket.socket) -> None:
    """Wait until a connection that is being made is there; raises OSError."""
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(inside, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(inside)
    failure = inside.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failure:
        raise OSError(failure, os.strerror(failure))

"""Sockets in a sandbox's own loopback for the host, connected or listening, which the agent makes and sends.

A guest may send other descriptors in the agent's name. So each is checked: it must be a TCP socket of the kind and at
the port that was asked for.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Sequence

DIAL_S = 5.0  # loopback answers at once, unless a backlog is full or the agent is stopped
MAX_WAITING = 256

Ask = Callable[[dict[str, object]], Awaitable[None]]  # sends an order to the agent


class Dials:
    """Asks the agent of one sandbox for sockets, and gives each answer to the caller that waits for it."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[socket.socket]] = {}
        self._number = 0

    async def connect(self, ask: Ask, port: int) -> socket.socket:
        """Return a non-blocking socket connected to 127.0.0.1:`port` inside; raises OSError, also TimeoutError."""
        async with asyncio.timeout(DIAL_S):
            inside = await self._given(ask, {"op": "dial", "port": port})
            try:
                await _connected(inside)
                if inside.getpeername() != ("127.0.0.1", port):
                    raise ConnectionRefusedError(f"the sandbox sent a connection that is not to its port {port}")
            except BaseException:
                inside.close()
                raise
        return inside

    async def listen(self, ask: Ask, port: int) -> socket.socket:
        """Return a non-blocking socket that listens at 127.0.0.1:`port` inside; raises OSError, also TimeoutError."""
        async with asyncio.timeout(DIAL_S):
            inside = await self._given(ask, {"op": "listen", "port": port})
        if not inside.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or inside.getsockname() != (
            "127.0.0.1",
            port,
        ):
            inside.close()
            raise ConnectionRefusedError(f"the sandbox sent a socket that does not listen at its port {port}")
        return inside

    async def _given(self, ask: Ask, order: dict[str, object]) -> socket.socket:
        """Send an order to the agent and return the TCP socket that it answers with. Raises OSError."""
        if len(self._waiting) >= MAX_WAITING:
            raise ConnectionRefusedError(f"{MAX_WAITING} connections to the sandbox are waiting already")
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
        """Handle the agent's answer to the order `number`; without a descriptor it is a refusal.

        Raises KeyError when no such order waits.
        """
        given = self._waiting.pop(number)
        if given.done():
            return
        try:
            given.set_result(_tcp_socket(descriptors[0]))
        except (IndexError, ValueError, OSError) as error:
            given.set_exception(ConnectionRefusedError(f"the sandbox sent no usable socket: {error}"))
            given.exception()  # mark it as seen: the caller may have been cancelled

    def give_up(self) -> None:
        """Fail all orders that wait; to be called when the sandbox has ended."""
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
    """Wait until a non-blocking connect has completed; raises OSError when it failed."""
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

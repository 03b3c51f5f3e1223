"""A listener lets in as many as it should, and nobody stays when it closes."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from workbench.local_cloud.base.listeners import BoundedListener
from workbench.local_cloud.base.ports import listen

DEADLINE_S = 30


async def client(door_port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", door_port)


def opened(serve: Callable[[socket.socket], Awaitable[None]], *, at_once: int = 2) -> tuple[BoundedListener, int]:
    listener = listen(0)
    port: int = listener.getsockname()[1]
    return BoundedListener(listener, serve, at_once=at_once), port


async def hold(connection: socket.socket) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, b"in")
    await asyncio.Event().wait()


async def test_who_comes_when_it_is_full_is_turned_away_and_served_later() -> None:
    async def serve(connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, b"in")
        await loop.sock_recv(connection, 1)

    before = len(os.listdir("/proc/self/fd"))
    listener, port = opened(serve)
    guests = [await client(port) for _ in range(2)]
    for reader, _ in guests:
        assert await asyncio.wait_for(reader.readexactly(2), DEADLINE_S) == b"in"
    late = await client(port)
    assert await asyncio.wait_for(late[0].read(), DEADLINE_S) == b""
    guests[0][1].close()
    for _ in range(100):
        again = await client(port)
        if await asyncio.wait_for(again[0].read(2), DEADLINE_S) == b"in":
            break
        again[1].close()
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("a place that is free again is given to nobody")
    await listener.aclose()
    for _, writer in (*guests, late, again):
        writer.close()
        await asyncio.sleep(0)
    for _ in range(100):
        if len(os.listdir("/proc/self/fd")) <= before:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("a descriptor was left open")


async def test_closing_cuts_everybody_and_can_be_done_twice() -> None:
    listener, port = opened(hold)
    reader, writer = await client(port)
    assert await asyncio.wait_for(reader.readexactly(2), DEADLINE_S) == b"in"
    await listener.aclose()
    await listener.aclose()
    assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
    writer.close()


async def test_a_guest_that_leaves_rudely_harms_nobody() -> None:
    async def serve(connection: socket.socket) -> None:
        raise ConnectionResetError

    listener, port = opened(serve)
    for _ in range(5):
        reader, writer = await client(port)
        assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        writer.close()
    await listener.aclose()

"""Relays bytes and HTTP messages between a guest and the far side, the server that the proxy has connected to for it.

Bytes flow at the pace of the slower side. A byte in either direction restarts the idle timeout. What was sent before a
side ended still arrives. The far side's connection is closed when a function here returns.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import h11

from workbench.local_cloud.sandboxes.network.proxy_requests import end_to_end

CHUNK_BYTES = 64 * 1024
_CLOSE_S = 5.0

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class UnansweredError(Exception):
    """The far side closed the connection, or sent something other than HTTP, before it had answered."""


async def carry(connection: h11.Connection, guest: Stream, far: Stream, *, idle_s: float) -> None:
    """Answer a CONNECT with 200 and relay bytes both ways until both sides have ended, or one connection is lost."""
    writer, far_writer = guest[1], far[1]
    try:
        writer.write(connection.send(h11.Response(status_code=200, headers=[], reason=b"connected")) or b"")
        early, _ = connection.trailing_data
        far_writer.write(early)
        await join(guest, far, idle_s=idle_s)
    except OSError:
        pass  # the guest has gone
    finally:
        far_writer.transport.abort()


async def join(guest: Stream, far: Stream, *, idle_s: float) -> None:
    """Relay bytes both ways until both sides have ended, one connection is lost, or nothing moved for `idle_s`."""
    try:
        async with asyncio.timeout(idle_s) as limit, asyncio.TaskGroup() as group:
            idle = _Idle(limit, idle_s)
            group.create_task(_copy(guest[0], far[1], idle))
            group.create_task(_copy(far[0], guest[1], idle))
        await finish(far, idle_s=idle_s)
    except* (OSError, TimeoutError):
        pass  # either side may close its connection at any time
    finally:
        far[1].transport.abort()


async def forward(
    connection: h11.Connection,
    guest: Stream,
    request: h11.Request,
    far: Stream,
    *,
    idle_s: float,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Send a request, with the body that the guest sends, to the far side, and pass its answer back.

    The answer gets the `extra` headers. Raises UnansweredError when there is none.
    """
    far_connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=CHUNK_BYTES)
    try:
        far[1].write(far_connection.send(request) or b"")
        async with asyncio.timeout(idle_s) as limit, asyncio.TaskGroup() as group:
            idle = _Idle(limit, idle_s)
            sending = group.create_task(_pass_on(connection, guest[0], far_connection, far[1], idle))
            await _pass_back(far_connection, far[0], connection, guest[1], idle, extra)
            sending.cancel()
    except* (OSError, TimeoutError, h11.ProtocolError):
        pass  # an answer that has begun is cut off, which the guest sees from its length
    finally:
        far[1].transport.abort()
    if connection.our_state is h11.SEND_RESPONSE:
        raise UnansweredError("it did not answer")


async def finish(stream: Stream, *, idle_s: float) -> None:
    """Close a connection after everything that was written has been sent, or after `idle_s` seconds."""
    reader, writer = stream
    try:
        async with asyncio.timeout(idle_s):
            writer.transport.set_write_buffer_limits(high=0)
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        async with asyncio.timeout(_CLOSE_S):
            while await reader.read(CHUNK_BYTES):
                pass  # closing with unread bytes sends a reset, by which the other side may lose our last bytes
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


def send_answer(connection: h11.Connection, writer: asyncio.StreamWriter, status: int, text: str) -> None:
    """Send an answer of our own, with a status and a text, unless an answer has begun."""
    body = text.encode() + b"\n"
    headers = [
        (b"Content-Type", b"text/plain"),
        (b"Content-Length", str(len(body)).encode()),
        (b"Connection", b"close"),
    ]
    with contextlib.suppress(h11.LocalProtocolError, OSError):  # an answer has begun, or the connection is lost
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")


async def next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | type[h11.PAUSED]:
    """Read until the next event of a connection and return it; raises h11.RemoteProtocolError, OSError."""
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event  # type: ignore[return-value]  # `is not` does not narrow a class used as a sentinel
        connection.receive_data(await reader.read(CHUNK_BYTES))


class _Idle:
    """The idle timeout of one connection, which every byte restarts."""

    def __init__(self, limit: asyncio.Timeout, idle_s: float) -> None:
        self._limit = limit
        self._idle_s = idle_s

    def restart(self) -> None:
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._idle_s)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: _Idle) -> None:
    while data := await reader.read(CHUNK_BYTES):
        idle.restart()
        writer.write(data)
        await writer.drain()
        idle.restart()
    if writer.can_write_eof():
        writer.write_eof()
    else:  # TLS cannot end one direction alone
        writer.close()


async def _pass_on(
    connection: h11.Connection,
    reader: asyncio.StreamReader,
    far: h11.Connection,
    far_writer: asyncio.StreamWriter,
    idle: _Idle,
) -> None:
    listening = True
    while True:
        event = await next_event(connection, reader)
        idle.restart()
        if listening and isinstance(event, h11.Data | h11.EndOfMessage):
            try:
                far_writer.write(far.send(event) or b"")
                await far_writer.drain()
            except OSError:
                listening = False  # it may have answered already, with 413 for one: the rest of the body is discarded
        if not isinstance(event, h11.Data):
            return


async def _pass_back(
    far: h11.Connection,
    far_reader: asyncio.StreamReader,
    connection: h11.Connection,
    writer: asyncio.StreamWriter,
    idle: _Idle,
    extra: Sequence[tuple[bytes, bytes]],
) -> None:
    while True:
        event = await next_event(far, far_reader)
        idle.restart()
        if isinstance(event, h11.InformationalResponse):
            if event.status_code != 100:
                continue
            event = h11.InformationalResponse(status_code=100, headers=[])  # without it the guest sends no body
        elif isinstance(event, h11.Response):
            headers = [*end_to_end(event), *extra, (b"Connection", b"close")]
            event = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
        elif not isinstance(event, h11.Data | h11.EndOfMessage):
            return
        writer.write(connection.send(event) or b"")
        await writer.drain()
        idle.restart()
        if isinstance(event, h11.EndOfMessage):
            return

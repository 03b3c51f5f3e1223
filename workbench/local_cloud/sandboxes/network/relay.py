"""Carries bytes between a guest and the far side that the proxy has dialled for it, at the pace of the slower one.

It decides nothing: where to is `egress_proxy`'s business. Whatever moves in either direction puts the idle limit off,
what was sent before an end still arrives, and nothing of the far side stays open when a function here returns.
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
    """The far side ended, or spoke no HTTP, before it had answered."""


async def carry(connection: h11.Connection, guest: Stream, far: Stream, *, idle_s: float) -> None:
    """Answer a CONNECT and pass bytes both ways until both sides have ended, or one is lost."""
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
    """Pass bytes both ways until both sides have ended, or one is lost; the far side is closed then."""
    try:
        async with asyncio.timeout(idle_s) as limit, asyncio.TaskGroup() as group:
            idle = _Idle(limit, idle_s)
            group.create_task(_copy(guest[0], far[1], idle))
            group.create_task(_copy(far[0], guest[1], idle))
        await finish(far, idle_s=idle_s)
    except* (OSError, TimeoutError):
        pass  # either side may leave when it likes
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
    """Say a request to the far side, with the body that the guest sends, and pass the answer back.

    The answer gets the `extra` headers. Raises UnansweredError.
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
        pass  # an answer that has begun is cut off: its length tells the guest
    finally:
        far[1].transport.abort()
    if connection.our_state is h11.SEND_RESPONSE:
        raise UnansweredError("it did not answer")


async def finish(stream: Stream, *, idle_s: float) -> None:
    """Close once what was written has gone, however slow its reader is, up to the idle limit."""
    reader, writer = stream
    try:
        async with asyncio.timeout(idle_s):
            writer.transport.set_write_buffer_limits(high=0)
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        async with asyncio.timeout(_CLOSE_S):
            while await reader.read(CHUNK_BYTES):
                pass  # closing with bytes unread is a reset, which would take our last ones away
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


def say(connection: h11.Connection, writer: asyncio.StreamWriter, status: int, text: str) -> None:
    """Answer for ourselves, with a sentence, where the connection still allows it."""
    body = text.encode() + b"\n"
    headers = [
        (b"Content-Type", b"text/plain"),
        (b"Content-Length", str(len(body)).encode()),
        (b"Connection", b"close"),
    ]
    with contextlib.suppress(h11.LocalProtocolError, OSError):  # an answer has begun, or nobody is there
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")


async def next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | type[h11.PAUSED]:
    """The next event of a connection; raises h11.RemoteProtocolError, OSError."""
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event  # type: ignore[return-value]  # `is not` does not narrow a class used as a sentinel
        connection.receive_data(await reader.read(CHUNK_BYTES))


class _Idle:
    """The idle limit of one connection, put off by whatever moves."""

    def __init__(self, limit: asyncio.Timeout, idle_s: float) -> None:
        self._limit = limit
        self._idle_s = idle_s

    def put_off(self) -> None:
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._idle_s)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: _Idle) -> None:
    while data := await reader.read(CHUNK_BYTES):
        idle.put_off()
        writer.write(data)
        await writer.drain()
        idle.put_off()
    if writer.can_write_eof():
        writer.write_eof()
    else:  # TLS ends both ways at once
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
        idle.put_off()
        if listening and isinstance(event, h11.Data | h11.EndOfMessage):
            try:
                far_writer.write(far.send(event) or b"")
                await far_writer.drain()
            except OSError:
                listening = False  # it may have answered all the same, as by 413: the rest is read to nowhere
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
        idle.put_off()
        if isinstance(event, h11.InformationalResponse):
            if event.status_code != 100:
                continue
            event = h11.InformationalResponse(status_code=100, headers=[])  # else the guest keeps its body to itself
        elif isinstance(event, h11.Response):
            headers = [*end_to_end(event), *extra, (b"Connection", b"close")]
            event = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
        elif not isinstance(event, h11.Data | h11.EndOfMessage):
            return
        writer.write(connection.send(event) or b"")
        await writer.drain()
        idle.put_off()
        if isinstance(event, h11.EndOfMessage):
            return

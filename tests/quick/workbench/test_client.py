"""The client against endpoints that misbehave: real servers on loopback that cut, stall, lie and redirect."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import SecretStr

from modal_app.contract import sse
from modal_app.contract.events import DoneEvent, Event, Phase, StatusEvent, StreamEvent
from workbench import AsyncClient, Endpoint, Project, RequestRefusedError, StreamLostError, make_request
from workbench.runs import client

REQUEST = make_request(Project.new(), "python", code="1")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-run-id: r\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def _without_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many attempts as ever, with a fifth of the time between them."""
    monkeypatch.setattr(client, "_PAUSE_S", client._PAUSE_S / 5)


def status(seq: int, phase: Phase) -> StatusEvent:
    return StatusEvent(run_id="r", seq=seq, at_ms=1, elapsed_ms=seq, phase=phase, message="m")


EVENTS: list[Event] = [
    status(1, Phase.ACCEPTED),
    status(2, Phase.RUNNING),
    StreamEvent(run_id="r", seq=3, at_ms=1, elapsed_ms=3, channel="stdout", text="héllo\n\nworld"),
    DoneEvent(run_id="r", seq=4, at_ms=1, elapsed_ms=4),
]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WHOLE = [HEAD, chunk(sse.HEARTBEAT), *(chunk(sse.frame(event)) for event in EVENTS), chunk(b"")]


@contextmanager
def serving(pieces: list[bytes], *, stall: bool = False) -> Iterator[Endpoint]:
    """A server that reads a request, answers these bytes, one write for each piece, and hangs up or stalls."""
    started = threading.Event()
    port = 0
    loop = asyncio.new_event_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.005)
            if stall:
                await asyncio.sleep(60)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        started.set()
        async with server:
            await server.serve_forever()

    def run() -> None:
        task = loop.create_task(serve())
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(10)
    try:
        yield Endpoint(url=f"http://127.0.0.1:{port}", secret=SecretStr("s" * 20))
    finally:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join(10)


async def hear(endpoint: Endpoint, silence_s: float = 5) -> list[Event]:
    async with AsyncClient(endpoint, silence_s=silence_s) as client, client.stream(REQUEST) as events:
        return [received.event async for received in events]


async def test_a_stream_is_heard_whole() -> None:
    with serving(WHOLE) as endpoint:
        assert await hear(endpoint) == EVENTS


async def test_the_cuts_of_the_network_do_not_matter() -> None:
    """Bytes may arrive in any pieces: here one by one."""
    raw = b"".join(WHOLE)
    with serving([raw[index : index + 1] for index in range(len(raw))]) as endpoint:
        assert await hear(endpoint) == EVENTS


@pytest.mark.parametrize("kept", range(1, 5))
async def test_a_stream_that_ends_early_is_lost_and_never_done(kept: int) -> None:
    """Politely closed or cut off: without the terminal event nobody knows how the run ended."""
    for ending in ([chunk(b"")], []):
        with serving([*WHOLE[: kept + 1], *ending]) as endpoint:
            with pytest.raises(StreamLostError) as caught:
                await hear(endpoint)
            assert caught.value.run_id == "r"
            assert caught.value.last_seq == max(0, kept - 1)


async def test_silence_is_loss() -> None:
    with serving(WHOLE[:3], stall=True) as endpoint, pytest.raises(StreamLostError, match="silent"):
        await hear(endpoint, silence_s=0.3)


async def test_heartbeats_are_life() -> None:
    beats = [chunk(sse.HEARTBEAT)] * 30
    with serving([HEAD, *beats, *WHOLE[2:]]) as endpoint:
        assert await hear(endpoint, silence_s=0.5) == EVENTS


@pytest.mark.parametrize(
    "frames",
    [
        [sse.frame(EVENTS[0]), sse.frame(EVENTS[0])],
        [sse.frame(EVENTS[1])],
        [sse.frame(EVENTS[0]), sse.frame(EVENTS[2])],
        [b"id: 1\nevent: status\ndata: not json\n\n"],
        [b"id: 1\nevent: status\ndata: {}\n\n"],
        [b"event: done\ndata: " + b"[" * 100_000 + b"\n\n"],
    ],
)
async def test_an_endpoint_that_breaks_the_contract_is_not_believed(frames: list[bytes]) -> None:
    with serving([HEAD, *map(chunk, frames), chunk(b"")]) as endpoint, pytest.raises(StreamLostError):
        await hear(endpoint)


async def test_an_unknown_kind_of_event_is_skipped() -> None:
    novelty = chunk(b"id: 9\nevent: novelty\ndata: {}\n\n")
    with serving([HEAD, novelty, *WHOLE[2:]]) as endpoint:
        assert await hear(endpoint) == EVENTS


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (b'HTTP/1.1 401 X\r\ncontent-length: 36\r\n\r\n{"error":"no","code":"unauthorized"}', 401, "unauthorized"),
        (b"HTTP/1.1 502 X\r\ncontent-length: 11\r\n\r\n<html>oops>", 502, "internal"),
        (b"HTTP/1.1 303 X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", 303, "internal"),
        (b"HTTP/1.1 500 X\r\ncontent-length: 999999\r\n\r\ncut", 500, "internal"),
        (b"nonsense\r\n\r\n", 0, "unreachable"),
        (b"", 0, "unreachable"),
    ],
)
async def test_a_refusal_is_told_with_its_code(answer: bytes, status: int, code: str) -> None:
    """A redirect is a refusal too: following it would turn the POST into a GET."""
    with serving([answer]) as endpoint:
        with pytest.raises(RequestRefusedError) as caught:
            await hear(endpoint)
        assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize(
    ("body", "recoverable", "run_id"),
    [
        (b'{"error":"m","code":"project_busy","recoverable":true,"run_id":"r"}', True, "r"),
        (b'{"error":"m","code":"gone","recoverable":false,"run_id":"r"}', False, "r"),
        (b'{"error":"m","code":"over_capacity","recoverable":true}', True, None),
    ],
)
async def test_a_refusal_tells_its_run_and_whether_to_try_again(
    body: bytes, recoverable: bool, run_id: str | None
) -> None:
    with serving([b"HTTP/1.1 409 X\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)]) as endpoint:
        with pytest.raises(RequestRefusedError) as caught:
            await hear(endpoint)
        assert (caught.value.recoverable, caught.value.run_id) == (recoverable, run_id)


async def test_nobody_there_is_told() -> None:
    with serving([]) as endpoint:
        pass
    with pytest.raises(RequestRefusedError, match="cannot be reached"):
        await hear(endpoint)


async def test_the_secret_shows_up_in_no_text() -> None:
    endpoint = Endpoint(url="http://127.0.0.1:1/", secret=SecretStr("hush" * 10))
    with pytest.raises(RequestRefusedError) as caught:
        await hear(endpoint)
    assert "hush" not in f"{endpoint!r} {endpoint} {caught.value!r} {caught.value.__context__!r}"


@pytest.mark.parametrize("url", ["", "ftp://x", "file:///etc/passwd", "127.0.0.1:80", "http://"])
def test_what_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        Endpoint(url=url, secret=SecretStr("s"))

"""Output is exact at every offset, and neither memory nor disk grows with it."""

import asyncio
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workbench.local_cloud.sandboxes.engine.output_spool import (
    KEPT_BYTES,
    SEGMENT_BYTES,
    WINDOW_BYTES,
    OutputForgottenError,
    OutputLostError,
    Spool,
)

DEADLINE_S = 60


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path)
    yield spool
    spool.discard()


def writing(spool: Spool) -> int:
    read, write = os.pipe()
    spool.fill_from(read)
    return write


def pour(descriptor: int, total: int) -> None:
    block = bytes(range(256)) * 4096
    try:
        for start in range(0, total, len(block)):
            os.write(descriptor, block[: total - start])
    finally:
        os.close(descriptor)


async def take(spool: Spool, offset: int = 0) -> bytes:
    data = bytearray()
    while chunk := await asyncio.wait_for(spool.read(offset + len(data)), DEADLINE_S):
        data += chunk
    return bytes(data)


async def test_every_byte_comes_once_across_segments(spool: Spool) -> None:
    total = 2 * SEGMENT_BYTES + 12345
    pouring = asyncio.create_task(asyncio.to_thread(pour, writing(spool), total))
    data = await take(spool)
    await pouring
    assert data == (bytes(range(256)) * (total // 256 + 1))[:total]
    assert await take(spool, SEGMENT_BYTES - 3) == data[SEGMENT_BYTES - 3 :]


async def test_an_endless_output_waits_for_its_reader(spool: Spool) -> None:
    total = WINDOW_BYTES * 3
    pouring = asyncio.create_task(asyncio.to_thread(pour, writing(spool), total))
    await asyncio.wait([pouring], timeout=1)
    assert not pouring.done()
    assert spool.size < WINDOW_BYTES * 1.1
    assert len(await take(spool)) == total
    await pouring


async def test_what_is_in_the_pipe_when_a_program_ends_is_kept_however_late_the_reader(spool: Spool) -> None:
    pouring = asyncio.create_task(asyncio.to_thread(pour, writing(spool), WINDOW_BYTES + 50_000))
    await pouring
    spool.drain()
    assert len(await take(spool)) == WINDOW_BYTES + 50_000


async def test_what_was_read_long_ago_is_forgotten_and_said_so(spool: Spool, tmp_path: Path) -> None:
    total = KEPT_BYTES * 4
    pouring = asyncio.create_task(asyncio.to_thread(pour, writing(spool), total))
    position = most = 0
    while chunk := await asyncio.wait_for(spool.read(position), DEADLINE_S):
        position += len(chunk)
        most = max(most, spool.size - spool.kept_from)
    await pouring
    assert position == total
    assert most <= KEPT_BYTES + WINDOW_BYTES + 2 * SEGMENT_BYTES
    with pytest.raises(OutputForgottenError, match="no longer kept"):
        await spool.read(0)
    assert len(await spool.read(total - 10)) == 10
    assert os.listdir(tmp_path) == []


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open no file for as long as the block; those that are open stay so."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_output_that_cannot_be_kept_does_not_look_like_an_end(spool: Spool) -> None:
    write = writing(spool)
    os.write(write, b"lost")
    with no_more_descriptors():
        spool.drain()
    with pytest.raises(OutputLostError, match="cannot be kept: Too many open files"):
        await take(spool)
    os.close(write)


async def test_what_was_kept_comes_before_the_loss_is_told(spool: Spool) -> None:
    write = writing(spool)
    os.write(write, b"kept")
    assert await asyncio.wait_for(spool.read(0), DEADLINE_S) == b"kept"
    pouring = asyncio.create_task(asyncio.to_thread(pour, write, 2 * SEGMENT_BYTES))
    with no_more_descriptors():  # the second segment has no file
        found = await asyncio.wait_for(spool.read(4, max_bytes=SEGMENT_BYTES), DEADLINE_S)
        while len(found) < SEGMENT_BYTES - 4:
            found += await asyncio.wait_for(spool.read(4 + len(found)), DEADLINE_S)
        with pytest.raises(OutputLostError):
            await asyncio.wait_for(spool.read(SEGMENT_BYTES), DEADLINE_S)
    with pytest.raises(BrokenPipeError):
        await pouring


async def test_output_that_cannot_be_read_does_not_look_like_an_end(spool: Spool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        spool.fill_from(os.dup(ours.fileno()))
        theirs.send(b"some")
        assert await asyncio.wait_for(spool.read(0), DEADLINE_S) == b"some"
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()  # a reset
        with pytest.raises(OutputLostError, match="cannot be read: Connection reset by peer"):
            await asyncio.wait_for(spool.read(4), DEADLINE_S)


async def test_output_that_is_let_go_of_is_an_end_for_who_has_it_all_and_for_nobody_else(spool: Spool) -> None:
    await asyncio.to_thread(pour, writing(spool), 1000)
    assert len(await take(spool)) == 1000
    spool.discard()
    assert await spool.read(1000) == b""
    with pytest.raises(OutputForgottenError):
        await spool.read(0)


async def test_a_reader_of_what_is_let_go_of_while_it_goes_on_is_told(spool: Spool) -> None:
    write = writing(spool)
    os.write(write, b"begun")
    assert await asyncio.wait_for(spool.read(0), DEADLINE_S) == b"begun"
    reading = asyncio.create_task(spool.read(5))
    await asyncio.sleep(0)
    spool.discard()
    with pytest.raises(OutputLostError, match="discarded before its end"):
        await reading
    os.close(write)

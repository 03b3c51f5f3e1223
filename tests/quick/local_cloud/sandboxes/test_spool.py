"""Output is exact at every offset, and neither memory nor disk grows with it."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from workbench.local_cloud.sandboxes.spool import (
    KEPT_BYTES,
    SEGMENT_BYTES,
    WINDOW_BYTES,
    OutputForgottenError,
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


async def test_a_discarded_output_ends_for_its_readers(spool: Spool) -> None:
    descriptor = writing(spool)
    reading = asyncio.create_task(spool.read(0))
    await asyncio.sleep(0)
    spool.discard()
    assert await asyncio.wait_for(reading, DEADLINE_S) == b""
    with pytest.raises(BrokenPipeError):
        os.write(descriptor, b"x")
    os.close(descriptor)

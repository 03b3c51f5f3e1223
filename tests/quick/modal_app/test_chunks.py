"""A line is one piece, however many writes it took; nothing is lost, held for long, or put out of order."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_app.sandboxes.output_chunks import MAX_HELD_BYTES, MOST_PAUSE_S, PAUSE_S, Pace, pieces


async def of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def collect(chunks: AsyncIterator[bytes], *, pause_s: float = PAUSE_S, **options: float) -> list[bytes]:
    return [piece async for piece in pieces(chunks, Pace(pause_s), **options)]


async def test_the_writes_of_one_print_are_one_piece() -> None:
    """`print("line", 1)` without a buffer writes four times."""
    writes = of(b"line", b" ", b"1", b"\n", b"line", b" 2\n")
    assert await collect(writes, hold_s=60, pause_s=0) == [b"line 1\n", b"line 2\n"]


async def test_what_comes_in_a_burst_is_one_piece() -> None:
    """The first line goes on at once, what follows within the pause goes together."""
    assert await collect(of(*[b"line\n"] * 100), pause_s=60) == [b"line\n", b"line\n" * 99]


async def test_a_line_after_a_pause_goes_on_at_once() -> None:
    waited = asyncio.Event()

    async def calm() -> AsyncIterator[bytes]:
        yield b"one\n"
        await waited.wait()
        yield b"two\n"
        await asyncio.Event().wait()

    found = pieces(calm(), Pace())
    assert await asyncio.wait_for(anext(found), 30) == b"one\n"
    waited.set()
    assert await asyncio.wait_for(anext(found), 30) == b"two\n"
    await found.aclose()  # type: ignore[attr-defined]  # it is an async generator


async def test_the_beginning_of_a_line_does_not_wait_for_ever() -> None:
    """A prompt or a progress bar has no line end."""
    released = asyncio.Event()

    async def prompt() -> AsyncIterator[bytes]:
        yield b"name? "
        await released.wait()
        yield b"ok\n"

    found = pieces(prompt(), Pace())
    assert await asyncio.wait_for(anext(found), 30) == b"name? "
    released.set()
    assert [piece async for piece in found] == [b"ok\n"]


async def test_a_drip_without_line_ends_is_held_from_its_first_byte_only() -> None:
    """Each further byte must not start the time anew."""

    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b"."
            await asyncio.sleep(0.001)

    found = pieces(drip(), Pace(), hold_s=0.01)
    assert len(await asyncio.wait_for(anext(found), 30)) < 1000
    await found.aclose()  # type: ignore[attr-defined]  # it is an async generator


async def test_what_is_held_is_bounded() -> None:
    piece = b"x" * 1000
    sizes = [len(chunk) for chunk in await collect(of(*[piece] * 200), hold_s=60)]
    assert sum(sizes) == 200_000
    assert max(sizes) < MAX_HELD_BYTES + len(piece)


async def test_an_error_of_the_source_is_passed_on() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a\n"
        raise OSError("gone")

    found = pieces(broken(), Pace())
    assert await anext(found) == b"a\n"
    with pytest.raises(OSError, match="gone"):
        await anext(found)


def test_many_streams_together_make_as_many_pieces_as_one_alone() -> None:
    """Each pauses for longer the more of them print; one that prints now and then has no pause to wait for."""
    at = [0.0]
    pace = Pace(0.005, clock=lambda: at[0])
    due = dict.fromkeys(range(40), 0.0)
    made = 0
    while at[0] < 10:
        stream = min(due, key=lambda one: due[one])  # each prints without an end: the next piece comes with its pause
        at[0] = max(at[0], due[stream])
        due[stream] = pace.pause(stream)
        made += at[0] >= 1  # the first second is for finding the pace
    assert 150 * 9 < made < 250 * 9
    at[0] = 100
    assert pace.pause(0) == pytest.approx(100.005)  # nobody else prints any more


def test_no_pause_is_longer_than_the_longest() -> None:
    pace = Pace(0.005, clock=lambda: 1.0)
    ends = [pace.pause(stream) for stream in range(500)]
    assert max(ends) == pytest.approx(1 + MOST_PAUSE_S)
    assert Pace(60, clock=lambda: 1.0).pause(0) == 61


@given(st.lists(st.binary(min_size=1, max_size=8)))
def test_nothing_is_lost_or_put_out_of_order(chunks: list[bytes]) -> None:
    assert b"".join(asyncio.run(collect(of(*chunks), pause_s=0))) == b"".join(chunks)

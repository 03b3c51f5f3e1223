"""Everything that a program prints is in some row of the log, whole lines where there are lines."""

import asyncio
import os
import sqlite3
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.local_cloud.base.host_processes import lines
from workbench.local_cloud.base.log_lines import CHUNK_BYTES, MAX_ROW_CHARS, MAX_ROWS, Frames, OutputPipe, Rows
from workbench.local_cloud.base.programs import Program


@given(st.lists(st.binary(max_size=40)), st.integers(0, 3))
def test_rows_make_up_what_was_printed(chunks: list[bytes], flushes: int) -> None:
    rows, found = Rows(), []
    for number, chunk in enumerate(chunks):
        found += rows.take(chunk) if chunk else []
        found += rows.flush() if number % 4 < flushes else []
    found += rows.take(b"")
    assert "".join(found) == b"".join(chunks).decode(errors="replace")
    assert all(row.count("\n") == row.endswith("\n") for row in found)


@pytest.mark.parametrize("text", ["a" * 50_000 + "\n", "ü\n" * 40_000, "€" * MAX_ROW_CHARS + "\nrest", "\n" * 5])
def test_long_lines_come_in_pieces_and_many_short_ones_together(text: str) -> None:
    rows, data, found = Rows(), text.encode(), []
    for at in range(0, len(data), CHUNK_BYTES):
        taken = rows.take(data[at : at + CHUNK_BYTES])
        assert len(taken) <= MAX_ROWS + 1
        found += taken
    assert "".join(found + rows.take(b"")) == text
    assert all(len(row) <= MAX_ROW_CHARS for row in found)


IN = st.sampled_from(["in-1", "in-22", ""])
TEXT = st.sampled_from([b"a line\n", b"part", b"\x1b[1mbold\x1b[0m\n", b"\x1b]in", b"\xc3", b"\xbc\n"])


@given(st.lists(st.tuples(IN, TEXT), max_size=12), st.integers(1, 9))
def test_marks_say_whose_each_piece_is_wherever_they_are_cut(printed: list[tuple[str, bytes]], step: int) -> None:
    data = b"".join(b"\x1b]input;%s\x07%s\x1b]input;\x07" % (owner.encode(), text) for owner, text in printed)
    frames, found = Frames(), defaultdict[str, bytes](bytes)
    for at in range(0, len(data), step):
        for owner, piece in frames.take(data[at : at + step]):
            found[owner] += piece
    for owner, piece in frames.take(b""):
        found[owner] += piece
    for owner in ("in-1", "in-22", ""):
        assert found[owner] == b"".join(text for who, text in printed if who == owner)


async def test_an_unended_line_of_one_input_does_not_cut_another_s() -> None:
    found: list[tuple[str, str]] = []
    pipe = OutputPipe(lambda owner, rows: found.extend((owner, row) for row in rows), framed=True)
    reading = asyncio.create_task(pipe.run())
    for owner, text in (("in-1", "one"), ("in-2", "two"), ("", "three"), ("in-2", "!\n")):
        os.write(pipe.fd, f"\x1b]input;{owner}\x07{text}\x1b]input;\x07".encode())
    await pipe.settle("in-1")
    assert sorted(found) == [("", "three"), ("in-1", "one"), ("in-2", "two!\n")]
    pipe.started()
    await asyncio.wait_for(reading, 60)
    assert len(found) == 3


async def printed(script: str, on_rows: list[str]) -> None:
    pipe = OutputPipe(lambda _, rows: on_rows.extend(rows))
    program = await Program.start(sys.executable, "-c", script, stdout=pipe.fd)
    pipe.started()
    reading = asyncio.create_task(pipe.run())
    await program.wait()
    pipe.hurry()
    await asyncio.wait_for(reading, 60)
    await program.aclose()


@pytest.mark.parametrize("count", [1, 300, 20_000])
async def test_a_program_that_ends_at_once_has_every_line_in_the_log(count: int) -> None:
    rows: list[str] = []
    await printed(f"for n in range({count}): print('line', n)", rows)
    assert "".join(rows) == "".join(f"line {number}\n" for number in range(count))


async def test_what_was_printed_before_a_moment_is_in_the_log_when_that_is_asked_for() -> None:
    rows: list[str] = []
    pipe = OutputPipe(lambda _, more: rows.extend(more))
    reading = asyncio.create_task(pipe.run())
    for number in range(50):
        os.write(pipe.fd, f"{number} ".encode())
        await pipe.settle()
        assert "".join(rows) == "".join(f"{before} " for before in range(number + 1))
    pipe.started()
    await asyncio.wait_for(reading, 60)
    await pipe.settle()
    assert len(rows) == 50


async def test_a_log_that_cannot_be_written_for_a_while_says_what_is_missing() -> None:
    rows: list[str] = []
    failing = [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left on device"), None]

    def write(input_id: str, more: list[str]) -> None:
        error = failing.pop(0) if failing else None
        if error is not None:
            raise error
        rows.extend(more)

    pipe = OutputPipe(write)
    reading = asyncio.create_task(pipe.run())
    for number in range(4):
        os.write(pipe.fd, f"line {number}\n".encode())
        await pipe.settle()
    pipe.started()
    await asyncio.wait_for(reading, 60)
    assert rows == ["[local cloud: 2 rows of output could not be written here]\n", "line 2\n", "line 3\n"]


def test_a_pipe_that_is_closed_twice_takes_nobody_else_s_descriptor(tmp_path: Path) -> None:
    async def twice() -> None:
        pipe = OutputPipe(lambda _, rows: None)
        pipe.close()
        with (tmp_path / "mine").open("w") as mine:
            pipe.close()
            os.fstat(mine.fileno())

    asyncio.run(twice())


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("print('{\"a\": \"' + 'x' * 100_000 + '\"}')", '{"a": "' + "x" * 100_000 + '"}\n'),
        ("print('ü' * 20_000, end='')", "ü" * 20_000 + "\n"),
        ("print('one'); print(); print('two', end='')", "one\n\ntwo\n"),
    ],
)
async def test_a_long_line_of_a_build_is_whole(script: str, expected: str) -> None:
    program = await Program.start(sys.executable, "-X", "utf8", "-c", script)
    found = [line async for line in lines(program.stdout)]
    await program.aclose()
    assert "".join(found) == expected
    assert len(found) > 1

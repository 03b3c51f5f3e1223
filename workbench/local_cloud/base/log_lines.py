"""Reads what a program prints, cuts it into the rows of a log and hands them on. Nothing that was printed is left out.

A row is usually one line with its line feed. A row without a line feed is part of a line, because the line is too long
or was not finished in time; the stream's next row continues it. When much comes at once, a row holds several whole
lines, because clients of Modal's log fetch only a bounded number of rows for two seconds.
"""

import asyncio
import codecs
import fcntl
import os
import re
import sqlite3
import struct
import termios
import time
from collections import defaultdict
from collections.abc import Callable

import structlog

_log = structlog.get_logger(__name__)

OnRows = Callable[[list[str]], None]
OnRowsOf = Callable[[str, list[str]], None]  # the first text is the id of the input that printed the rows, or ""

CHUNK_BYTES = 64 * 1024
MAX_ROW_CHARS = 8192
PARTIAL_LINE_S = 0.5  # how long an unfinished line waits for its end before it becomes a row
MAX_ROWS = 1000  # made of one chunk that was read
MAX_ROWS_OF_A_FULL_CHUNK = 200
_ROW_S = 0.0002  # a stream pauses so long for each row: at most 5,000 rows a second on average
_BURST_S = 0.2  # after a silence, so many seconds' worth of rows pass without a pause
_MARK = re.compile(rb"\x1b\]input;((?:in-\w{1,64})?)\x07")
_BEGINNING = re.compile(rb"\x1b(?:\](?:i(?:n(?:p(?:u(?:t(?:;[\w-]{0,67})?)?)?)?)?)?)?\Z")


class Rows:
    """Makes rows from the bytes of one stream; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.partial = ""

    def take(self, data: bytes) -> list[str]:
        """Return the rows that these bytes complete; an unfinished line is kept as `partial`.

        Empty bytes mean the end of the stream: the unfinished line is then a row, too.
        """
        rows = cut(self.partial + self._decoder.decode(data, final=not data))
        self.partial = rows.pop() if rows and data and not rows[-1].endswith("\n") else ""
        most = MAX_ROWS if len(data) < CHUNK_BYTES else MAX_ROWS_OF_A_FULL_CHUNK
        return rows if len(rows) <= most else _together(rows, len(data) // most)

    def flush(self) -> list[str]:
        """Return the unfinished line as a row of its own, if there is one, and forget it."""
        rows, self.partial = [self.partial] if self.partial else [], ""
        return rows


def cut(text: str) -> list[str]:
    """Return a text as lines with their line feeds, each in pieces of at most `MAX_ROW_CHARS` characters."""
    *whole, last = text.split("\n")
    lines = [f"{line}\n" for line in whole] + ([last] if last else [])
    return [line[at : at + MAX_ROW_CHARS] for line in lines for at in range(0, len(line), MAX_ROW_CHARS)]


def _together(lines: list[str], size: int) -> list[str]:
    """Join lines into rows of at most `size` characters; a longer line is a row of its own."""
    rows, row = [], ""
    for line in lines:
        if row and len(row) + len(line) > size:
            rows.append(row)
            row = ""
        row += line
    return [*rows, row]


class Frames:
    """Splits a container's output by the marks with which `guest_start` says which input printed what follows.

    The container may write false marks. They only decide with which of its own inputs a row is shown.
    """

    def __init__(self) -> None:
        self._input_id = ""
        self._held = b""

    def take(self, data: bytes) -> list[tuple[str, bytes]]:
        """Return pieces as (input id, bytes) in order; bytes that may begin a mark are held back for the next call.

        Empty bytes mean the end of the output: nothing is held back then.
        """
        found = []
        *parts, last = _MARK.split(self._held + data)  # text, input, text, input, …, text
        for text, input_id in zip(parts[::2], parts[1::2], strict=True):
            found.append((self._input_id, text))
            self._input_id = input_id.decode()
        beginning = _BEGINNING.search(last) if data else None
        self._held = beginning[0] if beginning is not None else b""
        found.append((self._input_id, last[: len(last) - len(self._held)]))
        return [piece for piece in found if piece[1]]


class OutputPipe:
    """A pipe from a program into a log: everything that is written to it becomes rows, in order.

    A program that prints faster than the log takes it waits, as on any full pipe. `fd` is the write end, for the
    program.
    """

    def __init__(self, on_rows: OnRowsOf, *, framed: bool = False) -> None:
        """`on_rows` gets the rows with their input's id; `framed` output has the marks that `Frames` reads.

        Raises OSError when no pipe can be made.
        """
        self._on_rows = on_rows
        self._frames = Frames() if framed else None
        self._rows: defaultdict[str, Rows] = defaultdict(Rows)  # by input
        self._handed_on = 0
        self._missing = 0
        self._free_at = 0.0
        self._progress = asyncio.Event()
        self._hurried = False
        self._source, self.fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._source, False)

    def started(self) -> None:
        """Close our copy of the write end; to be called once the program has its own."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def hurry(self) -> None:
        """Take what is left without pauses; to be called when the program has ended."""
        self._hurried = True

    async def run(self) -> None:
        """Hand on everything until nobody holds the write end any more. Raises OSError when the pipe cannot be read."""
        try:
            while data := await self._read():
                await self._pause(self._take(data))
            self._take(b"")
            self._flush()
        except OSError as error:  # a reader of the log must see that the output is not complete
            self._flush()
            self._hand_on("", [f"[local cloud: the rest of the output cannot be read: {error.strerror}]\n"])
            raise
        finally:
            self.close()

    async def settle(self, *inputs: str) -> None:
        """Return when everything that was printed before this call has been handed on.

        That includes the unfinished lines of these inputs, and of output that belongs to no input.
        """
        if self._source < 0:
            return
        (waiting,) = struct.unpack("i", fcntl.ioctl(self._source, termios.FIONREAD, b"\0" * 4))
        wanted = self._handed_on + waiting
        while self._source >= 0 and self._handed_on < wanted:
            await self._progress.wait()
        self._flush("", *inputs)

    def close(self) -> None:
        """Close both ends of the pipe. Idempotent."""
        self.started()
        if self._source >= 0:
            os.close(self._source)
            self._source = -1
        self._tell()

    def _take(self, data: bytes) -> int:
        """Make rows of what was read and return their number. Empty bytes mean the end of the output."""
        made = 0
        for input_id, piece in self._frames.take(data) if self._frames is not None else [("", data)] if data else []:
            rows = self._rows[input_id].take(piece)
            self._hand_on(input_id, rows)
            made += len(rows)
        self._handed_on += len(data)
        self._tell()
        return made

    def _flush(self, *inputs: str) -> None:
        """Make rows of the unfinished lines of these inputs, or of all inputs when none are given."""
        for input_id in inputs or list(self._rows):
            rows = self._rows.pop(input_id, None)
            if rows is not None:
                self._hand_on(input_id, rows.take(b""))

    async def _pause(self, rows: int) -> None:
        now = time.monotonic()
        self._free_at = max(self._free_at, now - _BURST_S) + _ROW_S * rows
        await asyncio.sleep(0 if self._hurried else max(0, self._free_at - now))

    def _hand_on(self, input_id: str, rows: list[str]) -> None:
        """Hand rows on. Rows that cannot be written are counted, and the next ones begin with a row that says so."""
        if not rows:
            return
        try:
            notice = f"[local cloud: {self._missing} rows of output could not be written here]\n"
            self._on_rows(input_id, [notice, *rows] if self._missing else rows)
            self._missing = 0
        except (sqlite3.Error, OSError) as error:
            self._missing += len(rows)
            _log.error("log.not_written", rows=len(rows), exc_info=error)

    def _tell(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    async def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._source, CHUNK_BYTES)
            except BlockingIOError:
                partial = any(rows.partial for rows in self._rows.values())
                if not await self._readable(PARTIAL_LINE_S if partial else None):
                    for input_id, rows in self._rows.items():
                        self._hand_on(input_id, rows.flush())

    async def _readable(self, timeout_s: float | None) -> bool:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._source, ready.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ready.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._source)
        return True

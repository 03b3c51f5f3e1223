"""All lines of a run's output, by number: in memory the newest and what is needed to find the others, the rest spooled.

Numbers count from 0 and never change. Rows before `first` are forgotten, because there was too much. Text is kept as it
is shown, with its control characters made visible; the exact bytes are the archive's. May be used from any thread.
"""

import json
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from modal_app.contract.events import DoneEvent, Event, StatusEvent, StreamEvent
from workbench.runs.claude_messages import MAX_BODY_CHARS, pieces
from workbench.runs.lines import Assembler, Row
from workbench.runs.spool import Spool
from workbench.text.plain_text import visible

MAX_ROWS = 8_000_000  # of which about ten bytes each are held in memory
BLOCK_ROWS = 4096  # that are written together
BLOCK_CHARS = 512 * 1024
MAX_BLOCKS_OF_TEXT = 1000  # parts of a model's answers that can still be withdrawn: the newest
MAX_ROWS_OF_TEXT = 10_000  # of one such part that are struck out then: its first
LATEST_MS = 2**53  # the largest exact integer of JavaScript; times in an archive may be larger

CHANNELS = ("stdout", "stderr", "claude", "status", "done", "error")
KINDS = ("", "more", "tool", "result", "failure", "note")
CODES = tuple((channel, kind) for channel in CHANNELS for kind in KINDS)
"""A row's channel and kind as one small number: its place in this list."""
_CODE_OF = {pair: code for code, pair in enumerate(CODES)}
_LINE, _BODY = "\n", "\x01\x02"  # between rows, and before and within a body: none is in text that was made visible


@dataclass(slots=True, eq=False)
class _Block:
    first: int
    codes: bytes
    times: "array[int]"
    address: int
    size: int

    @property
    def end(self) -> int:
        return self.first + len(self.codes)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows one after the other: the number of the first, their codes, and their text, in one string.

    `open` are the numbers of those that may still grow.
    """

    first: int
    codes: bytes
    records: str
    open: frozenset[int] = frozenset()

    def split(self) -> list[str]:
        """The text of each row, with its body."""
        return self.records.split(_LINE)


class OutputIndex:
    """The lines of one run. `add` takes its events in their order."""

    def __init__(self, events: Iterable[Event] = (), *, spool: Spool | None = None) -> None:
        self._lock = threading.RLock()
        self._spool = spool or Spool()
        self._assembler = Assembler(self._take, visible, take_whole=self._take_whole)
        self._blocks: list[_Block] = []
        self._starts: list[int] = []
        self._recent: list[Row] = []  # rows that are not written yet
        self._recent_first = 0
        self._recent_chars = 0
        self._late: dict[int, Row] = {}  # rows that are written already and may still grow: one of each channel at most
        self._of_block: OrderedDict[str, list[int]] = OrderedDict()
        self._withdrawn: set[int] = set()
        self._last_withdrawn: str | None = None
        self.first = 0
        self.events = 0
        self.first_seq = 0
        self.last_seq = 0
        self.alarms = 0
        """How many rows, of all that there were, tell of something wrong."""
        for event in events:
            self.add(event)

    def __enter__(self) -> Self:
        """Let nothing be added or forgotten, in any other thread, until the block ends."""
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def total(self) -> int:
        """The number of the next row."""
        return self._recent_first + len(self._recent)

    @property
    def open(self) -> frozenset[int]:
        """The numbers of the rows that may still grow."""
        with self._lock:
            recent = (number for number, row in enumerate(self._recent, self._recent_first) if row.open)
            return frozenset((*self._late, *recent))

    def add(self, event: Event) -> None:
        """Take in the run's next event."""
        with self._lock:
            self.events += 1
            self.first_seq = self.first_seq or event.seq
            self.last_seq = event.seq
            if isinstance(event, StreamEvent):
                self._stream(event)
            else:
                self._milestone(event)
            if self._late:
                self._settle()
            if len(self._recent) >= BLOCK_ROWS or self._recent_chars >= BLOCK_CHARS:
                self._write_most()

    def row(self, number: int) -> Row:
        """One row. Raises LookupError when it is forgotten, or does not exist yet."""
        return self.rows([number])[0]

    def rows(self, numbers: Iterable[int]) -> list[Row]:
        """Copies of rows, in the order of `numbers`. Raises LookupError as `row` does."""
        found = []
        block, records = None, [""]
        with self._lock:
            for number in numbers:
                if not self.first <= number < self.total:
                    raise LookupError(f"there is no row {number}")
                row = self._in_memory(number)
                if row is None:
                    if block is None or not block.first <= number < block.end:
                        block = self._block_of(number)
                        records = self._read(block).split(_LINE)
                    row = _row(block, number, records[number - block.first])
                row.withdrawn = number in self._withdrawn
                found.append(row)
        return found

    def stretch(self, number: int) -> Stretch:
        """Rows from `number` on: as many as are kept together, at least one. Raises LookupError as `row` does."""
        with self._lock:
            if not self.first <= number < self.total:
                raise LookupError(f"there is no row {number}")
            if number >= self._recent_first:
                rows = self._recent[number - self._recent_first :][:BLOCK_ROWS]
                still = frozenset(at for at, row in enumerate(rows, number) if row.open)
                codes = bytes(_CODE_OF[row.channel, row.kind] for row in rows)
                return Stretch(number, codes, _LINE.join(map(_record, rows)), still)
            block = self._block_of(number)
            records = self._read(block)
            skipped = number - block.first
            still = frozenset(at for at in self._late if number <= at < block.end)
            if still or skipped:
                each = records.split(_LINE)
                for at in still:
                    each[at - block.first] = _record(self._late[at])
                records = _LINE.join(each[skipped:])
            return Stretch(number, block.codes[skipped:], records, still)

    def of_block(self, block: str | None) -> list[int]:
        """The numbers of the rows that are from this part of a model's answer, as far as that is still known."""
        with self._lock:
            return list(self._of_block.get(block or "", ()))

    def close(self) -> None:
        """Forget all rows, and end the files. Idempotent."""
        with self._lock:
            self._recent_first = self.first = self.total
            self._recent, self._recent_chars = [], 0
            self._blocks, self._starts = [], []
            self._late, self._withdrawn = {}, set()
            self._assembler.end_all()
            self._spool.close()

    def _stream(self, event: StreamEvent) -> None:
        if event.replaces is not None and event.replaces != self._last_withdrawn:
            self._last_withdrawn = event.replaces
            self._withdrawn.update(self.of_block(event.replaces))
        channel, at = event.channel, min(event.elapsed_ms, LATEST_MS)
        if event.message is None:
            self._recent_chars += len(event.text)
            self._assembler.say(channel, event.text, at, event.message_id if channel == "claude" else None)
            return
        for piece in pieces(event):
            if piece.kind == "end":
                self._assembler.end(channel)
            else:
                self._recent_chars += len(piece.line) + len(piece.body)
                self._assembler.tell(channel, piece.kind, piece.line, at, piece.body)

    def _milestone(self, event: Event) -> None:
        at = min(event.elapsed_ms, LATEST_MS)
        if isinstance(event, StatusEvent):
            self._assembler.tell("status", "", f"{event.phase}: {event.message}", at)
            return
        self._assembler.end_all()
        if isinstance(event, DoneEvent):
            result = "" if event.result is None else json.dumps(event.result, indent=2, ensure_ascii=False)
            self._assembler.tell("done", "", "done: exit code 0", at, result[:MAX_BODY_CHARS])
        elif not isinstance(event, StreamEvent):
            code = "" if event.exit_code is None else f" (exit code {event.exit_code})"
            self._assembler.tell("error", "", f"{event.code}: {event.message}{code}", at)

    def _take(self, row: Row) -> None:
        if row.block is not None:
            numbers = self._of_block.setdefault(row.block, [])
            if len(numbers) < MAX_ROWS_OF_TEXT:
                numbers.append(self.total)
            if len(self._of_block) > MAX_BLOCKS_OF_TEXT:
                self._of_block.popitem(last=False)
        if row.channel in ("stderr", "error") or row.kind == "failure":
            self.alarms += 1
        self._recent.append(row)

    def _take_whole(self, channel: str, lines: list[str], at: int) -> bool:
        """Write very many lines at once: a row for each would take ten times as long."""
        if len(lines) < BLOCK_ROWS // 8:
            return False
        self._write(len(self._recent))
        if channel == "stderr":
            self.alarms += len(lines)
        codes = bytes([_CODE_OF[channel, ""]]) * len(lines)
        self._append(codes, array("q", [at]) * len(lines), _LINE.join(lines))
        return True

    def _in_memory(self, number: int) -> Row | None:
        row = self._recent[number - self._recent_first] if number >= self._recent_first else self._late.get(number)
        if row is None:
            return None
        return Row(row.channel, row.kind, row.at, row.text, row.body, row.block, open=row.open)

    def _write_most(self) -> None:
        """Write the recent rows, without those at the end that are open, for they will soon be longer."""
        count = len(self._recent)
        while count and self._recent[count - 1].open:
            count -= 1
        self._write(count)

    def _write(self, count: int) -> None:
        """Write the first recent rows as a block."""
        rows, self._recent = self._recent[:count], self._recent[count:]
        if not rows:
            return
        self._late.update((self._recent_first + at, row) for at, row in enumerate(rows) if row.open)
        codes = bytes(_CODE_OF[row.channel, row.kind] for row in rows)
        self._append(codes, array("q", [row.at for row in rows]), _LINE.join(map(_record, rows)))
        self._recent_chars = sum(len(row.text) for row in self._recent)

    def _append(self, codes: bytes, times: "array[int]", records: str) -> None:
        """Write rows as a block; they are no recent ones any more."""
        data = _encoded(records)
        first = self._recent_first
        self._blocks.append(_Block(first, codes, times, self._spool.append(data), len(data)))
        self._starts.append(first)
        self._recent_first += len(codes)
        self._forget()

    def _settle(self) -> None:
        """Write anew the blocks of late rows that have ended."""
        for number in [number for number, late in self._late.items() if not late.open]:
            row = self._late.pop(number, None)
            if row is None:
                continue  # forgotten just now
            block = self._block_of(number)
            records = self._read(block).split(_LINE)
            records[number - block.first] = _record(row)
            data = _encoded(_LINE.join(records))
            block.address, block.size = self._spool.append(data), len(data)
            self._forget()

    def _forget(self) -> None:
        begin, count = self._spool.begin, 0
        for place, block in enumerate(self._blocks, 1):
            if block.address < begin or self.total - block.first > MAX_ROWS:
                count = place
        if not count:
            return
        del self._blocks[:count], self._starts[:count]
        self.first = self._starts[0] if self._starts else self._recent_first
        self._late = {number: row for number, row in self._late.items() if number >= self.first}
        self._withdrawn = {number for number in self._withdrawn if number >= self.first}

    def _block_of(self, number: int) -> _Block:
        return self._blocks[bisect_right(self._starts, number) - 1]

    def _read(self, block: _Block) -> str:
        return self._spool.read(block.address, block.size).decode()


def _record(row: Row) -> str:
    return f"{row.text}{_BODY[0]}{row.body.replace(_LINE, _BODY[1])}" if row.body else row.text


def _encoded(records: str) -> bytes:
    return records.encode(errors="replace")  # a half of a character that needs two, in a hostile message


def _row(block: _Block, number: int, record: str) -> Row:
    place = number - block.first
    channel, kind = CODES[block.codes[place]]
    text, _, body = record.partition(_BODY[0])
    return Row(channel, kind, block.times[place], text, body.replace(_BODY[1], _LINE))

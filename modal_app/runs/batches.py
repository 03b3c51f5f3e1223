"""Batches: the unit in which a run's events are stored, kept and served, as the very bytes that readers get.

A batch is a piece of the run's SSE stream: whole frames, numbered without a gap. Its header tells the first and the
last number, whether its last event is the terminal one, and whether the log goes on in another segment.
"""

import re
import secrets
from dataclasses import dataclass

from modal_app.contract.events import TERMINAL, Event, TerminalEvent, parse_event

MAX_ITEM_BYTES = 768 * 1024  # of a queue; Modal takes 1 MiB with what serializing adds
_HEADER = re.compile(rb"(\d{1,18}) (\d{1,18}) ([01])([01])\n")
_PART = re.compile(rb"part ([0-9a-f]{16}) (\d{1,4}) (\d{1,4})\n")
_FRAME_END = b"\n\n"


class BrokenBatchError(ValueError):
    """The bytes are no batch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events `first` to `last` of a run, as SSE frames. After one that is `rolls`, the log has another segment."""

    first: int
    last: int
    frames: bytes
    terminal: bool = False
    rolls: bool = False

    def encode(self) -> bytes:
        """The bytes that `decode` reads."""
        return b"%d %d %d%d\n" % (self.first, self.last, self.terminal, self.rolls) + self.frames

    @classmethod
    def decode(cls, data: object) -> "Batch":
        """Read a batch; raises BrokenBatchError."""
        header = _HEADER.match(data) if isinstance(data, bytes) else None
        if header is None or not isinstance(data, bytes):
            raise BrokenBatchError("not a batch of events")
        first, last = int(header[1]), int(header[2])
        frames = data[header.end() :]
        if data == ROLL.encode():
            return ROLL
        if not 1 <= first <= last or not frames.endswith(_FRAME_END):
            raise BrokenBatchError("a batch without whole events")
        return cls(first, last, frames, terminal=header[3] == b"1", rolls=header[4] == b"1")


ROLL = Batch(0, 0, b"", rolls=True)
"""No events: the log goes on in another segment."""


def parts(data: bytes) -> list[bytes]:
    """An encoded batch as items of a queue, in more than one when it is too large for that."""
    if len(data) <= MAX_ITEM_BYTES:
        return [data]
    name = secrets.token_hex(8).encode()
    pieces = [data[start : start + MAX_ITEM_BYTES] for start in range(0, len(data), MAX_ITEM_BYTES)]
    return [b"part %s %d %d\n" % (name, number, len(pieces)) + piece for number, piece in enumerate(pieces)]


class Joiner:
    """Puts the parts of batches together again."""

    def __init__(self) -> None:
        self._name = b""
        self._pieces: dict[int, bytes] = {}

    def feed(self, item: object) -> bytes | None:
        """The batch that an item completes. One whose parts were not all put is dropped when another begins."""
        header = _PART.match(item) if isinstance(item, bytes) else None
        if header is None or not isinstance(item, bytes):
            return item if isinstance(item, bytes) else b""
        name, number, count = header[1], int(header[2]), int(header[3])
        if name != self._name:
            self._name, self._pieces = name, {}
        self._pieces[number] = item[header.end() :]
        if len(self._pieces) < count:
            return None
        whole = b"".join(self._pieces[one] for one in sorted(self._pieces))
        self._name, self._pieces = b"", {}
        return whole


def offset_after(frames: bytes, seq: int) -> int:
    """Where in some frames the one behind event `seq` begins; at their end when there is none."""
    mark = b"id: %d\n" % (seq + 1)
    if frames.startswith(mark):
        return 0
    found = frames.find(_FRAME_END + mark)
    return len(frames) if found < 0 else found + len(_FRAME_END)


def events_of(frames: bytes) -> list[Event]:
    """The events of some frames. Raises UnknownEventError."""
    return [parse_event(_data(frame)) for frame in frames.split(_FRAME_END) if frame]


def terminal_of(frames: bytes) -> TerminalEvent:
    """The terminal event that some frames end with. Raises UnknownEventError, BrokenBatchError."""
    start = frames.rfind(_FRAME_END, 0, -len(_FRAME_END))
    event = parse_event(_data(frames[0 if start < 0 else start + len(_FRAME_END) :].removesuffix(_FRAME_END)))
    if not isinstance(event, TERMINAL):
        raise BrokenBatchError("the last event is no terminal one")
    return event


def _data(frame: bytes) -> bytes:
    _, found, data = frame.partition(b"\ndata: ")
    if not found:
        raise BrokenBatchError("a frame without data")
    return data

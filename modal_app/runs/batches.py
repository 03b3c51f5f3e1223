"""Batches: the unit in which a run's events are stored, kept and served, as the very bytes that readers get.

A batch is a piece of the run's SSE stream: whole frames, numbered without a gap. Its header tells the first and the
last number, whether its last event is the terminal one, and whether the log goes on in another segment.
"""

import re
from dataclasses import dataclass

from modal_app.contract.events import TERMINAL, Event, TerminalEvent, parse_event

_HEADER = re.compile(rb"(\d{1,18}) (\d{1,18}) ([01])([01])\n")
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

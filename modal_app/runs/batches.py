"""Batches: the unit in which a run's events are put into its log and served, as the very bytes that readers get.

A batch is a piece of the run's SSE stream: whole frames, numbered without a gap. Its header tells the first and the
last number, whether its last event is the terminal one, and whether the log continues in another segment. (A segment is
one partition of the queue that holds the log; a partition is bounded, so a long log has several.)
"""

import re
from dataclasses import dataclass

from modal_app.contract.events import TERMINAL, Event, TerminalEvent, parse_event

_HEADER = re.compile(rb"(\d{1,18}) (\d{1,18}) ([01])([01])\n")
_FRAME_END = b"\n\n"


class BrokenBatchError(ValueError):
    """The bytes are not a batch, or its frames are not whole events."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events `first` to `last` of a run, as SSE frames.

    `terminal` says that the last event ends the run. `rolls` says that this is the last batch of its segment: whoever
    wrote it puts the next batch into the next segment, and readers go on there.
    """

    first: int
    last: int
    frames: bytes
    terminal: bool = False
    rolls: bool = False

    def encode(self) -> bytes:
        """The batch as bytes: a header line, then the frames. `decode` reads them."""
        return b"%d %d %d%d\n" % (self.first, self.last, self.terminal, self.rolls) + self.frames

    @classmethod
    def decode(cls, data: object) -> "Batch":
        """Read a batch from what `encode` made. Raises BrokenBatchError for anything else, of whatever type."""
        header = _HEADER.match(data) if isinstance(data, bytes) else None
        if header is None or not isinstance(data, bytes):
            raise BrokenBatchError("the bytes are not a batch of events: they have no header")
        first, last = int(header[1]), int(header[2])
        frames = data[header.end() :]
        if data == ROLL.encode():
            return ROLL
        if not 1 <= first <= last or not frames.endswith(_FRAME_END):
            raise BrokenBatchError(f"the batch of events {first} to {last} does not hold whole events")
        return cls(first, last, frames, terminal=header[3] == b"1", rolls=header[4] == b"1")


ROLL = Batch(0, 0, b"", rolls=True)
"""A batch without events, which only says that the log continues in the next segment."""


def offset_after(frames: bytes, seq: int) -> int:
    """The offset in `frames` at which event `seq + 1` begins; `len(frames)` if it is not among them."""
    mark = b"id: %d\n" % (seq + 1)
    if frames.startswith(mark):
        return 0
    found = frames.find(_FRAME_END + mark)
    return len(frames) if found < 0 else found + len(_FRAME_END)


def events_of(frames: bytes) -> list[Event]:
    """Parse frames into events. Raises UnknownEventError, BrokenBatchError."""
    return [parse_event(_data(frame)) for frame in frames.split(_FRAME_END) if frame]


def terminal_of(frames: bytes) -> TerminalEvent:
    """The terminal event at the end of `frames`. Raises UnknownEventError, and BrokenBatchError if there is none."""
    start = frames.rfind(_FRAME_END, 0, -len(_FRAME_END))
    event = parse_event(_data(frames[0 if start < 0 else start + len(_FRAME_END) :].removesuffix(_FRAME_END)))
    if not isinstance(event, TERMINAL):
        raise BrokenBatchError(f"the last event is a {event.type}, which does not end a run")
    return event


def _data(frame: bytes) -> bytes:
    _, found, data = frame.partition(b"\ndata: ")
    if not found:
        raise BrokenBatchError("a frame has no `data:` line")
    return data

"""A run's events as lines, channel by channel, so that two runs of one job can be held against each other. Pure.

The channels are what a client sees apart: the phases, each channel of output (the model's by role and kind), and the
end. Ids and times of day are no part of a line, nor is how output was cut into events.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from modal_app.contract.events import TERMINAL, Channel, Event, StatusEvent, StreamEvent
from workbench.runs.claude_messages import pieces, standing
from workbench.text.plain_text import one_line

_SHOWN = 200  # characters of a line


@dataclass(frozen=True)
class Line:
    """A line as it is compared, and the number of the event that began it (0: no single event did)."""

    text: str
    seq: int = 0

    def shown(self) -> str:
        """The beginning of the line, safe to print."""
        return one_line(self.text, _SHOWN)


def both(left: Sequence[Event], right: Sequence[Event]) -> Iterator[tuple[str, list[Line], list[Line]]]:
    """Each channel's name with the lines of both runs."""
    yield "status", _status(left), _status(right)
    for channel in get_args(Channel):
        yield channel, _output(left, channel), _output(right, channel)
    yield "end", _end(left), _end(right)


def _status(events: Sequence[Event]) -> list[Line]:
    return [
        Line(f"{one.phase}, the model is asked again" if one.retry else str(one.phase), one.seq)
        for one in events
        if isinstance(one, StatusEvent)
    ]


def _output(events: Sequence[Event], channel: Channel) -> list[Line]:
    """A channel's output: lines of text however they were cut, and messages by role and kind."""
    lines: list[Line] = []
    text, since = "", 0
    for event in standing(events):
        if not isinstance(event, StreamEvent) or event.channel != channel:
            continue
        if event.message is None:
            since = since if text else event.seq
            text += event.text
            *whole, text = text.splitlines(keepends=True) or [""]
            lines += [Line(one, since) for one in whole]
            since = event.seq if whole else since
            continue
        if text:
            lines.append(Line(text, since))
            text = ""
        lines += [Line(said, event.seq) for said in _said(event)]
    return [*lines, Line(text, since)] if text else lines


def _said(event: StreamEvent) -> Iterator[str]:
    message = event.message or {}
    role = str(message.get("type"))
    for piece in pieces(event):
        if piece.kind not in ("end", "note"):  # the text came in earlier events; a note has the session's id
            yield f"{role}/{piece.kind}: {piece.line} {piece.body}"


def _end(events: Sequence[Event]) -> list[Line]:
    end = events[-1] if events else None
    if not isinstance(end, TERMINAL):
        return []
    told = [f"{end.type} {end.outcome if end.type == 'error' else ''}".rstrip(), f"exit code {end.exit_code}"]
    told.append(f"message: {end.message}" if end.type == "error" else f"result: {end.result!r}")
    return [Line(one, end.seq) for one in told]

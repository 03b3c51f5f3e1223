"""A run's events in the form that the page draws: small JSON records, packed into messages of bounded size.

A record has `s` (sequence number), `t` (milliseconds), `c` (channel), and either `x`, a text as it was printed, or `p`,
a list of lines `[kind, line, body]`. On the channel `claude` it also has `m` (message id) and `r` (the id it replaces).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from modal_app.contract.events import DoneEvent, ErrorEvent, Event, StatusEvent, StreamEvent
from workbench.runs.claude_messages import MAX_BODY_CHARS, pieces

MESSAGE_BYTES = 4 * 1024 * 1024
SNAPSHOT_EVENTS = 20_000
SNAPSHOT_CHARS = 16 * 1024 * 1024

Record = dict[str, Any]


def record(event: Event) -> Record:
    """The record of an event."""
    stamp: Record = {"s": event.seq, "t": event.elapsed_ms}
    match event:
        case StreamEvent(channel="claude"):
            said = {"x": event.text} if event.message is None else {"p": _lines(event)}
            return stamp | {"c": "claude", "m": event.message_id, "r": event.replaces} | said
        case StreamEvent():
            return stamp | {"c": event.channel, "x": event.text}
        case StatusEvent():
            return stamp | {"c": "status", "p": [["", f"{event.phase}: {event.message}", ""]]}
        case DoneEvent():
            result = "" if event.result is None else json.dumps(event.result, indent=2, ensure_ascii=False)
            return stamp | {"c": "done", "p": [["", "done: exit code 0", result[:MAX_BODY_CHARS]]]}
        case ErrorEvent():
            code = "" if event.exit_code is None else f" (exit code {event.exit_code})"
            return stamp | {"c": "error", "p": [["", f"{event.code}: {event.message}{code}", ""]]}


def _lines(event: StreamEvent) -> list[list[str]]:
    return [[piece.kind, piece.line, piece.body] for piece in pieces(event)]


def packed(events: Iterable[Event]) -> Iterator[bytes]:
    """Records of events as JSON arrays, each of about MESSAGE_BYTES at most."""
    batch: list[str] = []
    size = 0
    for event in events:
        text = json.dumps(record(event), ensure_ascii=False, separators=(",", ":"))
        if batch and size + len(text) > MESSAGE_BYTES:
            yield _array(batch)
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield _array(batch)


def _array(texts: Sequence[str]) -> bytes:
    return f"[{','.join(texts)}]".encode(errors="replace")


def newest(events: Sequence[Event]) -> Sequence[Event]:
    """The newest events, as many as are sent to a page that has just been opened."""
    chars = 0
    for count, event in enumerate(reversed(events)):
        chars += len(event.text) if isinstance(event, StreamEvent) else 0
        if count == SNAPSHOT_EVENTS or chars > SNAPSHOT_CHARS:
            return events[len(events) - count :]
    return events

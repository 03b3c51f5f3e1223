"""Turns a Claude job's events into text for people: the model's words, and a line for each tool that it uses.

A tool's input and its answer are the `body` of its line, which widgets show when the line is unfolded.
"""

import json
from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from modal_app.contract.events import Event, StreamEvent
from workbench.runs.lines import Assembler, Row

_NAMED_BY = ("file_path", "command", "pattern", "path", "url", "description")
_MAX_CHARS = 120
MAX_BODY_CHARS = 64 * 1024

Kind = Literal["end", "tool", "result", "failure", "note"]
READ: frozenset[Kind] = frozenset({"end", "tool", "failure"})  # what a reader of plain text is shown


@dataclass(frozen=True)
class Piece:
    """One thing that a message says, as a line without a line end, with a longer `body` to unfold.

    With `end`, the piece has no line of its own: it ends the text that the model has said in earlier events.
    """

    kind: Kind
    line: str = ""
    body: str = ""


def shown(event: StreamEvent) -> str:
    """An event as text for a reader; empty for most messages, because their text came in earlier events."""
    if event.message is None:
        return event.text
    wanted = [piece for piece in pieces(event) if piece.kind in READ]
    return "".join(f"{piece.line}\n" for piece in wanted)


def pieces(event: StreamEvent) -> list[Piece]:
    """What a message says, without what earlier events have said already."""
    found = event.message or {}
    if found.get("type") == "system":
        return list(_system(found))
    message = found.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    blocks = content if isinstance(content, list) else []
    return [piece for one in blocks if isinstance(one, dict) for piece in block(one)]


def standing(events: Iterable[Event]) -> list[Event]:
    """The events without text that a later event replaces."""
    told = list(events)
    void = {event.replaces for event in told if isinstance(event, StreamEvent)} - {None}
    return [event for event in told if not (isinstance(event, StreamEvent) and event.message_id in void)]


def tell(lines: Assembler, event: StreamEvent, kinds: Container[Kind] = READ) -> None:
    """Add what a reader is shown of an event, as `shown` has it, or with these kinds of pieces."""
    if event.message is None:
        lines.say(event.channel, event.text, event.elapsed_ms)
        return
    for piece in pieces(event):
        if piece.kind == "end":
            lines.end(event.channel)
        elif piece.kind in kinds:
            lines.tell(event.channel, piece.kind, piece.line, event.elapsed_ms, piece.body)


def tail(events: Iterable[Event], lines: int = 40) -> str:
    """The last lines of what a job printed and said, safe to print."""
    last: deque[Row] = deque(maxlen=lines)
    assembler = Assembler(last.append)
    for event in standing(events):
        if isinstance(event, StreamEvent):
            tell(assembler, event)
    return "\n".join(row.text for row in last)


def _system(message: dict[str, JsonValue]) -> Iterator[Piece]:
    match message.get("subtype"):
        case "init":
            yield Piece("note", _first(f"session {message.get('session_id')}, asks for model {message.get('model')}"))
        case "api_retry":
            why = message.get("error_status") or message.get("error")
            yield Piece("note", _first(f"the model did not answer ({why}); attempt {message.get('attempt')} follows"))
        case "permission_denied":
            yield Piece("failure", _first(f"✗ not allowed: {message.get('tool_name')}: {message.get('message')}"))
        case "informational":
            yield Piece("note", _first(str(message.get("content"))))


def block(said: dict[str, JsonValue]) -> Iterator[Piece]:
    """What one block of a message says, at most one piece."""
    match said.get("type"):
        case "text":
            yield Piece("end")
        case "tool_use":
            given = said.get("input")
            named = next((given[name] for name in _NAMED_BY if name in given), "") if isinstance(given, dict) else ""
            yield Piece("tool", _first(f"→ {said.get('name')} {named}"), _json(given))
        case "tool_result":
            text = _text(said.get("content"))
            failed = said.get("is_error") is True
            yield Piece("failure" if failed else "result", _first(f"{'✗' if failed else '✓'} {text}"), _bounded(text))


def _text(content: JsonValue) -> str:
    """A tool's answer as text: it may be a text, or a list of blocks of which some are text."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    texts = [block.get("text") if isinstance(block, dict) else None for block in blocks]
    return "\n".join(
        text if isinstance(text, str) else _json(block) for text, block in zip(texts, blocks, strict=True) if block
    )


def _json(value: JsonValue) -> str:
    return _bounded(json.dumps(value, indent=2, ensure_ascii=False))


def _bounded(text: str) -> str:
    more = len(text) - MAX_BODY_CHARS
    return f"{text[:MAX_BODY_CHARS]}\n… {more} characters more" if more > 0 else text


def _first(text: str) -> str:
    first = text.strip().partition("\n")[0]
    return f"{first[:_MAX_CHARS]}{'…' if len(first) > _MAX_CHARS else ''}"

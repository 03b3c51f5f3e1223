"""A Claude job's events as text for people: what the model says as it comes, and a line for each tool that it uses.

What a tool was given and what it answered stands behind its line, for those who unfold it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from modal_app.contract.events import Event, StreamEvent
from workbench.text.plain_text import printable

_NAMED_BY = ("file_path", "command", "pattern", "path", "url", "description")
_MAX_CHARS = 120
MAX_BODY_CHARS = 64 * 1024

Kind = Literal["end", "tool", "result", "failure", "note"]


@dataclass(frozen=True)
class Piece:
    """One thing that a message says, as a line without its end; `body` is what stands behind it.

    `end` is the end of what the model said before, word by word, and has no line of its own.
    """

    kind: Kind
    line: str = ""
    body: str = ""


def shown(event: StreamEvent) -> str:
    """What a reader sees of an event; empty for most messages, whose text has come before them."""
    if event.message is None:
        return event.text
    wanted = [piece for piece in pieces(event) if piece.kind in ("end", "tool", "failure")]
    return "".join(f"{piece.line}\n" for piece in wanted)


def pieces(event: StreamEvent) -> list[Piece]:
    """Everything that a message says that has not come before it."""
    found = event.message or {}
    if found.get("type") == "system":
        return list(_system(found))
    message = found.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    blocks = content if isinstance(content, list) else []
    return [piece for block in blocks if isinstance(block, dict) for piece in _block(block)]


def standing(events: Iterable[Event]) -> list[Event]:
    """Events without the words that a later message stands in the place of."""
    told = list(events)
    void = {event.replaces for event in told if isinstance(event, StreamEvent)} - {None}
    return [event for event in told if not (isinstance(event, StreamEvent) and event.message_id in void)]


def tail(events: Iterable[Event], lines: int = 40) -> str:
    """The last lines of what a job printed and said, safe to print."""
    texts = [shown(event) for event in standing(events) if isinstance(event, StreamEvent)]
    return printable("\n".join("".join(texts[-1000:]).splitlines()[-lines:]))


def _system(message: dict[str, JsonValue]) -> Iterator[Piece]:
    match message.get("subtype"):
        case "init":
            yield Piece("note", _first(f"session {message.get('session_id')}, model {message.get('model')}"))
        case "api_retry":
            why = message.get("error_status") or message.get("error")
            yield Piece("note", _first(f"the model did not answer ({why}); attempt {message.get('attempt')} follows"))
        case "permission_denied":
            yield Piece("failure", _first(f"✗ not allowed: {message.get('tool_name')}: {message.get('message')}"))
        case "informational":
            yield Piece("note", _first(str(message.get("content"))))


def _block(block: dict[str, JsonValue]) -> Iterator[Piece]:
    match block.get("type"):
        case "text":
            yield Piece("end")
        case "tool_use":
            given = block.get("input")
            named = next((given[name] for name in _NAMED_BY if name in given), "") if isinstance(given, dict) else ""
            yield Piece("tool", _first(f"→ {block.get('name')} {named}"), _json(given))
        case "tool_result":
            text = _text(block.get("content"))
            failed = block.get("is_error") is True
            yield Piece("failure" if failed else "result", _first(f"{'✗' if failed else '✓'} {text}"), _bounded(text))


def _text(content: JsonValue) -> str:
    """What a tool answered: text, or blocks of which some are."""
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

"""Cuts the Claude CLI's stdout into lines and parses them as JSON objects of a bounded size. Pure; never raises.

A line holds what a model said or a job printed, so nothing in it is trusted, including its size and its depth.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.contract.caps import MAX_STREAM_TEXT_BYTES
from modal_app.contract.json_text import parse_json

MAX_LINE_BYTES = 8 * 1024 * 1024  # the longest result that a model can write is a twentieth of it
MAX_KEPT_BYTES = 4096  # what is kept of a line that is longer, or no JSON
_STRING_CAPS = (16_384, 4096, 512, 64)  # characters to which every string is cut, tried in turn until the value fits
_SURROGATES = re.compile(r"[\ud800-\udfff]")

Object = dict[str, JsonValue]


@dataclass(frozen=True)
class Parsed:
    """A line that is a JSON object."""

    value: Object


@dataclass(frozen=True)
class Unparsed:
    """A line that is not a JSON object, as text; its last `lost_bytes` bytes were dropped."""

    text: str
    lost_bytes: int = 0


class LineReader:
    """Cuts bytes into lines. Holds at most `max_line_bytes` of an unfinished line."""

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._held = bytearray()
        self._lost = 0

    def feed(self, data: bytes) -> list[Parsed | Unparsed]:
        """Take the next bytes and return the lines that they complete; empty lines are left out."""
        found = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._hold(data[start:end])
            found += self._take()
            start = end + 1
        self._hold(data[start:])
        return found

    def flush(self) -> list[Parsed | Unparsed]:
        """Return the last line, at the end of the output, if it has no line end."""
        return self._take()

    def _hold(self, part: bytes) -> None:
        if self._lost or len(self._held) + len(part) > self._max:
            self._lost += len(self._held) + len(part)
            self._held += part[: max(0, MAX_KEPT_BYTES - len(self._held))]
            del self._held[MAX_KEPT_BYTES:]
            self._lost -= len(self._held)
        else:
            self._held += part

    def _take(self) -> list[Parsed | Unparsed]:
        line, lost = bytes(self._held).removesuffix(b"\r"), self._lost
        self._held.clear()
        self._lost = 0
        if lost:
            return [Unparsed(_text(line), lost)]
        if not line.strip():
            return []
        value = _parse(line)
        if value is not None:
            return [Parsed(value)]
        return [Unparsed(_text(line[:MAX_KEPT_BYTES]), max(0, len(line) - MAX_KEPT_BYTES))]


def bounded(value: Object, max_bytes: int = MAX_STREAM_TEXT_BYTES) -> tuple[Object, bool]:
    """The value with its strings shortened until its JSON has at most `max_bytes`, and whether any was shortened.

    If that is not enough, only `type`, `subtype` and `session_id` are kept.
    """
    if size(value) <= max_bytes:
        return value, False
    for cap in _STRING_CAPS:
        cut = {key: _cut(item, cap) for key, item in value.items()}
        if size(cut) <= max_bytes:
            return cut, True
    kept = {key: value[key] for key in ("type", "subtype", "session_id") if isinstance(value.get(key), str)}
    return {key: _cut(item, _STRING_CAPS[-1]) for key, item in kept.items()}, True


def blocks_of(line: Object) -> Iterator[Object]:
    """The content blocks of the message that a line holds; none when it holds no message."""
    message = line.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            yield block


def message_id_of(line: Object) -> str:
    """The id of the message that a line holds; empty when it holds none."""
    message = line.get("message")
    return str(message.get("id", "")) if isinstance(message, dict) else ""


def taken_back(line: Object, message_id: str, uuids: Collection[str]) -> bool:
    """Whether a line says that a message is no longer part of the conversation.

    The message is given by its id, and by the uuids of the lines that told its blocks. The CLI takes a message back
    when it asks the model again: after a refusal, where it may ask another model, and after a tool call that it could
    not parse.
    """
    if line.get("type") not in ("user", "system"):
        return False
    if line.get("type") == "user" and line.get("refused_message_id") == message_id:
        return True
    retracted = line.get("retracted_message_uuids")
    return isinstance(retracted, list) and any(uuid in retracted for uuid in uuids)


def size(value: JsonValue) -> int:
    """How many bytes a value has as compact JSON in UTF-8."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _cut(value: JsonValue, cap: int) -> JsonValue:
    if isinstance(value, str):
        return value if len(value) <= cap else f"{value[:cap]}… [{len(value) - cap} characters more]"
    if isinstance(value, list):
        return [_cut(item, cap) for item in value]
    return {key: _cut(item, cap) for key, item in value.items()} if isinstance(value, dict) else value


def _parse(line: bytes) -> Object | None:
    try:
        value = parse_json(line.decode(errors="replace"))
        if b"\\ud" in line.lower():  # a lone surrogate is valid JSON, but cannot be encoded as UTF-8
            value = _whole(value)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _whole(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {str(_whole(key)): _whole(item) for key, item in value.items()} if isinstance(value, dict) else value


def _text(line: bytes) -> str:
    return line.decode(errors="replace")

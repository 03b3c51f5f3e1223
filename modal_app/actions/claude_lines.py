"""Bytes of the Claude CLI's stdout to lines, and lines to JSON objects of a bounded size. Pure, and it never raises.

Whatever stands in a line was said by a model or printed by a job: nothing of it is trusted, nor its size or its depth.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.contract.caps import MAX_STREAM_TEXT_BYTES
from modal_app.contract.json_text import parse_json

MAX_LINE_BYTES = 8 * 1024 * 1024  # a result that the model filled is a twentieth of it
MAX_KEPT_BYTES = 4096  # of a line that is longer
_STRING_CAPS = (16_384, 4096, 512, 64)  # how much is left of each string, until the whole fits
_SURROGATES = re.compile(r"[\ud800-\udfff]")

Object = dict[str, JsonValue]


@dataclass(frozen=True)
class Parsed:
    """A line that is a JSON object."""

    value: Object


@dataclass(frozen=True)
class Unparsed:
    """A line that is none, as text; `lost_bytes` of it were not kept."""

    text: str
    lost_bytes: int = 0


class LineReader:
    """Cuts bytes into lines. Holds at most one line of `max_line_bytes`."""

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._held = bytearray()
        self._lost = 0

    def feed(self, data: bytes) -> list[Parsed | Unparsed]:
        """The lines that these bytes complete."""
        found = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._hold(data[start:end])
            found += self._take()
            start = end + 1
        self._hold(data[start:])
        return found

    def flush(self) -> list[Parsed | Unparsed]:
        """What stands after the last line's end."""
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
    """A value whose JSON has at most `max_bytes`, and whether anything was cut off its strings for that."""
    if size(value) <= max_bytes:
        return value, False
    for cap in _STRING_CAPS:
        cut = {key: _cut(item, cap) for key, item in value.items()}
        if size(cut) <= max_bytes:
            return cut, True
    kept = {key: value[key] for key in ("type", "subtype", "session_id") if isinstance(value.get(key), str)}
    return {key: _cut(item, _STRING_CAPS[-1]) for key, item in kept.items()}, True


def blocks_of(line: Object) -> Iterator[Object]:
    """The blocks of the message in a line."""
    message = line.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            yield block


def message_id_of(line: Object) -> str:
    """The id of the message in a line; empty when it has none."""
    message = line.get("message")
    return str(message.get("id", "")) if isinstance(message, dict) else ""


def taken_back(line: Object, message_id: str, uuids: Collection[str]) -> bool:
    """Whether a line says that a message, told in lines of these uuids, is no part of the conversation any more.

    The CLI says so where it asks again: after a refusal, and after a tool's call that it could not read.
    """
    if line.get("type") != "user":
        return False
    if line.get("refused_message_id") == message_id:
        return True
    retracted = line.get("retracted_message_uuids")
    return isinstance(retracted, list) and any(uuid in retracted for uuid in uuids)


def size(value: JsonValue) -> int:
    """The bytes of a value's JSON."""
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
        if b"\\ud" in line.lower():  # half a character is JSON, but nothing that can be written as UTF-8
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

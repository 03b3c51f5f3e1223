"""Recorded exchanges with the model, and their replay. Pure: who keeps them is the caller's matter.

A replay answers a request as it was answered when it was recorded, and refuses one that asks something else. What
differs between two runs of the same job is not compared, and is named in this module alone: what the CLI of some
version says of itself, of its machine and of the day, and ids, hashes and dates in what the job's tools answered. All
else of that is compared, for it decides what the model says next.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from modal_app.model_gateway.wire import scrub

_SHOWN = 120  # characters of each side of a difference
_DAY = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH = r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_TIME = r"\d{2}:\d{2}(:\d{2}([.,]\d+)?)?"
_VOLATILE = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(rf"\d{{4}}-\d{{2}}-\d{{2}}([T ]{_TIME}( ?(Z|[+-]\d{{2}}:?\d{{2}}))?)?"), "<date>"),
    (re.compile(rf"{_DAY} {_MONTH} [ \d]\d {_TIME}( [A-Z]{{3,4}})? \d{{4}}( [+-]\d{{4}})?"), "<date>"),  # date, git log
    (re.compile(rf"{_MONTH} [ \d]\d ( \d{{4}}|{_TIME})"), "<date>"),  # ls -l
    (re.compile(r"\d{2}:\d{2}:\d{2}([.,]\d+)?"), "<time>"),
    (
        re.compile(r"\b(?=\d*[a-f])(?=[a-f]*\d)([0-9a-f]{7,12}|[0-9a-f]{40}|[0-9a-f]{64})\b"),
        "<hash>",
    ),  # git's hold the date
)
_REMINDER = "<system-reminder>"
_UNCOMPARED = frozenset({"cache_control", "signature"})
# What a version of the CLI says of itself, its session and its machine: version, directory, system, state of git.
_CLIS_OWN = frozenset({"metadata", "system", "context_management"})


class Exchange(BaseModel):
    """One request and its answer, without secrets. `whole` is false when the answer broke off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    request: dict[str, JsonValue]
    status: Annotated[int, Field(ge=200, le=599)]
    content_type: str
    answer: str
    whole: bool
    elapsed_ms: Annotated[int, Field(ge=0)] = 0


class ReplayError(Exception):
    """A request that the recording does not hold; the message says what is different, shortened.

    `recorded` and `asked` are what was compared; None when there was nothing to compare with.
    """

    def __init__(self, message: str, recorded: JsonValue, asked: JsonValue) -> None:
        super().__init__(message)
        self.recorded = recorded
        self.asked = asked


def dump_exchange(exchange: Exchange) -> str:
    """One line of JSON."""
    return exchange.model_dump_json()


def parse_exchange(line: str | bytes) -> Exchange:
    """Read a line; raises ValueError without quoting it."""
    try:
        return Exchange.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValueError(f"not an exchange: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def dump_exchanges(exchanges: Iterable[Exchange]) -> bytes:
    """Lines of JSON."""
    return "".join(f"{dump_exchange(one)}\n" for one in exchanges).encode()


def parse_exchanges(lines: bytes) -> tuple[Exchange, ...]:
    """Read lines; raises ValueError, which says the line, without quoting it."""
    found = []
    for number, line in enumerate(lines.splitlines(), 1):
        try:
            found.append(parse_exchange(line))
        except ValueError as error:
            raise ValueError(f"line {number} of the model's traffic: {error}") from None
    return tuple(found)


def redacted(body: dict[str, JsonValue], secrets: Sequence[bytes]) -> dict[str, JsonValue]:
    """A request's body as it is kept: without secrets, and without what names the account or the machine."""
    kept = ((name, item) for name, item in body.items() if name != "metadata")
    return {scrub(name, secrets): _scrubbed(item, secrets) for name, item in kept}


class Replay:
    """Gives a recording's answers, each once."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self._left = list(exchanges)
        self._total = len(self._left)

    @property
    def left(self) -> int:
        """How many exchanges nobody has asked for yet."""
        return len(self._left)

    def answer(self, path: str, body: dict[str, JsonValue]) -> Exchange:
        """The answer to a request; raises ReplayError with the first difference from what was recorded next."""
        asked = comparable(body)
        for number, exchange in enumerate(self._left):
            if exchange.path == path and comparable(exchange.request) == asked:
                return self._left.pop(number)
        following = next((one for one in self._left if one.path == path), None)
        if following is None:
            message = (
                f"the recording has no other request to {path} behind its {self._total} exchanges: the job goes on "
                "where the recorded one ended"
            )
            raise ReplayError(message, None, asked)
        position = self._total - len(self._left) + 1
        recorded = comparable(following.request)
        found = difference(recorded, asked)
        raise ReplayError(f"the request departs from exchange {position} of the recording at {found}", recorded, asked)


def comparable(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What of a request decides its answer. Of its tools these are the names: their descriptions are the CLI's own."""
    tools = body.get("tools")
    offered = tools if isinstance(tools, list) else []
    names: list[JsonValue] = [*sorted(str(tool.get("name")) for tool in offered if isinstance(tool, dict))]
    messages = body.get("messages")
    kept: list[JsonValue] = [
        {"role": message.get("role"), "content": _content(message.get("content"))}
        for message in (messages if isinstance(messages, list) else [])
        if isinstance(message, dict) and message.get("role") != "system"
    ]
    rest = {name: _steady(item) for name, item in body.items() if name not in _CLIS_OWN}
    return rest | {"stream": body.get("stream", False), "tools": names, "messages": kept}


def difference(recorded: JsonValue, asked: JsonValue, where: str = "") -> str | None:
    """The first place at which two values differ, with a little of both sides; None when they are equal."""
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for name in sorted({*recorded, *asked}):
            if recorded.get(name) != asked.get(name):
                return difference(recorded.get(name), asked.get(name), f"{where}.{name}" if where else name)
        return None
    if isinstance(recorded, list) and isinstance(asked, list):
        for number, (one, other) in enumerate(zip(recorded, asked, strict=False)):
            if one != other:
                return difference(one, other, f"{where}[{number}]")
        if len(recorded) != len(asked):
            return f"{where}: {len(recorded)} items were recorded, {len(asked)} came"
        return None
    if recorded == asked:
        return None
    before, now = str(recorded), str(asked)
    start = next((at for at, (one, other) in enumerate(zip(before, now, strict=False)) if one != other), 0)
    start = max(0, start - 20)
    return f"{where}: recorded {before[start : start + _SHOWN]!r}, came {now[start : start + _SHOWN]!r}"


def _content(content: JsonValue) -> list[JsonValue]:
    blocks: list[JsonValue] = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return [_steady(block) for block in blocks if not _is_reminder(block)]


def _is_reminder(block: JsonValue) -> bool:
    return isinstance(block, dict) and str(block.get("text", "")).lstrip().startswith(_REMINDER)


def _steady(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        for pattern, name in _VOLATILE:
            value = pattern.sub(name, value)
        return value
    if isinstance(value, list):
        return [_steady(item) for item in value if not _is_reminder(item)]
    if isinstance(value, dict):
        return {name: _steady(item) for name, item in value.items() if name not in _UNCOMPARED}
    return value


def _scrubbed(value: JsonValue, secrets: Sequence[bytes]) -> JsonValue:
    if isinstance(value, str):
        return scrub(value, secrets)
    if isinstance(value, list):
        return [_scrubbed(item, secrets) for item in value]
    if isinstance(value, dict):
        return {scrub(name, secrets): _scrubbed(item, secrets) for name, item in value.items()}
    return value

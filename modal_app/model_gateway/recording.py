"""Recorded exchanges with the model, and their replay. Pure: callers store and load the recordings.

A replay answers a request with the answer that was recorded for it, and refuses a request that was not recorded. Some
parts of a request differ between two runs of the same job, and are left out of the comparison: what the CLI says about
its version, its machine and the day, and ids, hashes and dates in the answers of the job's tools. This module alone
says which parts those are. All else is compared, because it decides what the model says next.
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
    ),  # a commit's hash depends on its date
)
_REMINDER = "<system-reminder>"
_UNCOMPARED = frozenset({"cache_control", "signature"})
# Fields in which the CLI describes itself, its session and its machine: version, directory, system, state of git.
_CLIS_OWN = frozenset({"metadata", "system", "context_management"})


class Exchange(BaseModel):
    """One request and its answer, without secrets.

    `answer` is the body as text, an event stream or JSON by `content_type`; `whole` is false when it broke off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    request: dict[str, JsonValue]
    status: Annotated[int, Field(ge=200, le=599)]
    content_type: str
    answer: str
    whole: bool
    elapsed_ms: Annotated[int, Field(ge=0)] = 0


class ReplayError(Exception):
    """The recording has no answer to a request; the message tells the first difference, shortened.

    `asked` is the request as it was compared, `recorded` the next recorded one; None when the recording is at its end.
    """

    def __init__(self, message: str, recorded: JsonValue, asked: JsonValue) -> None:
        super().__init__(message)
        self.recorded = recorded
        self.asked = asked


def dump_exchange(exchange: Exchange) -> str:
    """An exchange as one line of JSON, without the line's end."""
    return exchange.model_dump_json()


def parse_exchange(line: str | bytes) -> Exchange:
    """Parse a line of `dump_exchange`; raises ValueError, whose message does not quote the line."""
    try:
        return Exchange.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValueError(f"not an exchange: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def dump_exchanges(exchanges: Iterable[Exchange]) -> bytes:
    """Exchanges as lines of JSON in UTF-8."""
    return "".join(f"{dump_exchange(one)}\n" for one in exchanges).encode()


def parse_exchanges(lines: bytes) -> tuple[Exchange, ...]:
    """Parse lines of JSON; raises ValueError, whose message gives the line's number and does not quote it."""
    found = []
    for number, line in enumerate(lines.splitlines(), 1):
        try:
            found.append(parse_exchange(line))
        except ValueError as error:
            raise ValueError(f"line {number} of the model's traffic: {error}") from None
    return tuple(found)


def redacted(body: dict[str, JsonValue], secrets: Sequence[bytes]) -> dict[str, JsonValue]:
    """A request's body as it is recorded: secrets replaced, and without `metadata`, which names account and machine."""
    kept = ((name, item) for name, item in body.items() if name != "metadata")
    return {scrub(name, secrets): _scrubbed(item, secrets) for name, item in kept}


class Replay:
    """Answers requests from a recording; each recorded answer is used once."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self._left = list(exchanges)
        self._total = len(self._left)

    @property
    def left(self) -> int:
        """How many exchanges of the recording are not used yet."""
        return len(self._left)

    def answer(self, path: str, body: dict[str, JsonValue]) -> Exchange:
        """The recorded exchange for a request. Raises ReplayError when there is none."""
        asked = comparable(body)
        for number, exchange in enumerate(self._left):
            if exchange.path == path and comparable(exchange.request) == asked:
                return self._left.pop(number)
        following = next((one for one in self._left if one.path == path), None)
        if following is None:
            message = (
                f"the recording's {self._total} exchanges hold no further request to {path}: the job asks for more "
                "than the recorded one did"
            )
            raise ReplayError(message, None, asked)
        position = self._total - len(self._left) + 1
        recorded = comparable(following.request)
        found = difference(recorded, asked)
        raise ReplayError(f"the request departs from exchange {position} of the recording at {found}", recorded, asked)


def comparable(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The parts of a request that are compared, in a form in which equal jobs are equal; of tools, the names alone."""
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
    """The path of the first difference between two values, with a little of both; None when they are equal."""
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

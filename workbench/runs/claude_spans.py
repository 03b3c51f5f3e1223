"""Where the time of a Claude job went: the model's turns, its tools and its sub-agents, from the run's events alone.

A turn begins when the CLI asks the model (or, for a sub-agent, when the answer begins) and ends with the answer; a tool
begins when the model has named its input, and ends with its result. What a sub-agent does is one level deeper than the
tool that started it. The forms of the CLI's lines are those of Claude Code 2.1 with `--include-partial-messages`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from modal_app.contract.events import TERMINAL, Event, StreamEvent
from workbench.runs.claude_messages import block
from workbench.text.plain_text import one_line

MAX_SPANS = 200  # what comes later is counted
_NAME = 60  # characters
_TOKENS_IN = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


@dataclass(frozen=True)
class ClaudeSpan:
    """A turn of the model, or the use of a tool, in milliseconds since the run was accepted. All texts are printable.

    `depth` is 0 for the job's own, and one more for each sub-agent around it. `detail` has what is known of its tokens
    or its result, `failed` says that a tool's result was an error, or that it never came.
    """

    name: str
    start_ms: int
    end_ms: int
    depth: int = 0
    detail: str = ""
    failed: bool = False

    @property
    def length_ms(self) -> int:
        """The length in milliseconds."""
        return self.end_ms - self.start_ms


def claude_spans(events: Iterable[Event]) -> tuple[ClaudeSpan, ...]:
    """The spans of a run in the order of their beginnings; of more than MAX_SPANS, the last one tells how many more."""
    reading = _Reading()
    last = 0
    for event in events:
        last = event.elapsed_ms
        if isinstance(event, StreamEvent) and event.message is not None:
            reading.take(event)
        elif isinstance(event, TERMINAL):
            break
    return reading.spans(last)


class _Reading:
    def __init__(self) -> None:
        self._spans: list[ClaudeSpan] = []
        self._asked: int | None = None  # when the job's own next turn was asked for
        self._turns: dict[str, int] = {}  # the index of the turn that goes on, by the tool of the sub-agent that has it
        self._tools: dict[str, int] = {}  # the index of each tool's span, by the id of its use
        self._done: set[int] = set()
        self._count = 0

    def take(self, event: StreamEvent) -> None:
        line, now = event.message or {}, event.elapsed_ms
        match line:
            case {"type": "system", "subtype": "status", "status": "requesting"}:
                self._asked = now
            case {"type": "stream_event", "event": {"type": "message_start", "message": dict(message)}}:
                self._begin_turn(_parent(line), now, message)
            case {"type": "stream_event", "event": {"type": "message_delta", "usage": dict(usage)}}:
                self._tell_tokens(_parent(line), usage)
            case {"type": "stream_event", "event": {"type": "message_stop"}}:
                self._end_turn(_parent(line), now)
            case {"type": "assistant" | "user", "message": {"content": list(blocks)}}:
                for one in blocks:
                    if isinstance(one, dict):
                        self._block(one, _parent(line), now)

    def _block(self, said: dict[str, Any], parent: str, now: int) -> None:
        match said:
            case {"type": "tool_use", "id": str(use)}:
                [piece] = block(said)
                name = _name(piece.line.removeprefix("→ "))
                self._tools[use] = self._add(ClaudeSpan(name, now, now, self._depth(parent)))
            case {"type": "tool_result", "tool_use_id": str(use)} if use in self._tools:
                [piece] = block(said)
                index = self._tools[use]
                self._end(index, now, failed=piece.kind == "failure", detail=_name(piece.line[2:]))

    def _begin_turn(self, parent: str, now: int, message: dict[str, Any]) -> None:
        self._end_turn(parent, now)  # the answer before broke off, and the model was asked again
        start = now
        if not parent and self._asked is not None:
            start, self._asked = self._asked, None
        self._count += 1
        index = self._add(ClaudeSpan(f"turn {self._count}", start, now, self._depth(parent)))
        usage = message.get("usage")
        if isinstance(usage, dict):
            tokens = sum(number for name in _TOKENS_IN if isinstance(number := usage.get(name), int))
            self._change(index, detail=f"{tokens} tokens in")
        self._turns[parent] = index

    def _tell_tokens(self, parent: str, usage: dict[str, Any]) -> None:
        index, tokens = self._turns.get(parent), usage.get("output_tokens")
        if index is not None and isinstance(tokens, int):
            known = self._spans[index].detail.partition(",")[0] if index < len(self._spans) else ""
            self._change(index, detail=f"{known}, {tokens} out" if known else f"{tokens} tokens out")

    def _end_turn(self, parent: str, now: int) -> None:
        index = self._turns.pop(parent, None)
        if index is not None:
            self._end(index, now)

    def _depth(self, parent: str) -> int:
        index = self._tools.get(parent)
        return 0 if index is None or index >= len(self._spans) else self._spans[index].depth + 1

    def _add(self, span: ClaudeSpan) -> int:
        self._spans.append(span)
        return len(self._spans) - 1

    def _change(self, index: int, **fields: Any) -> None:
        self._spans[index] = replace(self._spans[index], **fields)

    def _end(self, index: int, now: int, **fields: Any) -> None:
        self._done.add(index)
        self._change(index, end_ms=max(now, self._spans[index].start_ms), **fields)

    def spans(self, last: int) -> tuple[ClaudeSpan, ...]:
        """The spans so far; those that were not seen to end go on until `last`."""
        for index, span in enumerate(self._spans):
            if index not in self._done:
                self._change(index, end_ms=max(last, span.start_ms), detail=span.detail or "no end seen")
        found = list(self._spans)
        found.sort(key=lambda span: span.start_ms)
        if len(found) <= MAX_SPANS:
            return tuple(found)
        rest = found[MAX_SPANS - 1 :]
        more = ClaudeSpan(f"… {len(rest)} more", rest[0].start_ms, max(span.end_ms for span in rest))
        return (*found[: MAX_SPANS - 1], more)


def _parent(line: dict[str, Any]) -> str:
    parent = line.get("parent_tool_use_id")
    return parent if isinstance(parent, str) else ""


def _name(text: str) -> str:
    return one_line(text, _NAME).strip()

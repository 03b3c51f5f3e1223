"""Scripts: what the model answers in a conversation, turn by turn, and where it fails. Only `load_script` does I/O.

The turn is chosen by the conversation alone: a request that contains `n` answers of the model gets turn `n`, counted
from 0. So a repeated request gets the same answer, and a session that is resumed or forked continues where it was.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator

from workbench.errors import WorkbenchError

FaultKind = Literal[
    "status",  # an error answer with `status`
    "hang_before_headers",
    "reset_before_headers",
    "hang_mid_stream",
    "pings_forever",  # after `after_deltas`: only pings from then on
    "eof_mid_stream",  # the answer ends cleanly, too early
    "close_mid_stream",  # the connection is closed in the middle of the answer
    "reset_mid_stream",  # the connection is reset, and the client's system may drop what it had received
    "error_mid_stream",  # an `error` event of the service
    "invalid_sse",  # an event whose data is not JSON
]
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal"]
BEFORE_HEADERS = frozenset({"status", "hang_before_headers", "reset_before_headers"})


class ScriptError(WorkbenchError, ValueError):
    """A script is invalid, or has no answer to a request; the message says where and why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fault(_Part):
    """How an answer fails. In YAML, a number means an HTTP status and a word means a kind.

    Faults in the middle of a stream happen after `after_deltas` deltas of the turn; they do not apply to a request that
    does not stream.
    """

    kind: FaultKind = "status"
    status: int = Field(500, ge=400, le=599)
    retry_after_s: int | None = Field(None, ge=0)
    message: str = "as the script says"
    after_deltas: int = Field(1, ge=0)
    times: int = Field(1, ge=1, description="for how many requests, where it stands in `first`")


def _fault(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"status": value}
    return {"kind": value} if isinstance(value, str) else value


def _texts(value: object) -> object:
    return _words(value) if isinstance(value, str) else value


def _words(text: str) -> list[str]:
    """A text as a list of words, the deltas in which a model sends it."""
    return re.findall(r"\s*\S+\s*|\s+", text)


AnyFault = Annotated[Fault, BeforeValidator(_fault)]
Deltas = Annotated[tuple[str, ...], BeforeValidator(_texts)]


class Tool(_Part):
    """A call of a tool by the model. `raw_input`, if given, is sent instead of `input` and need not be JSON."""

    name: str
    input: dict[str, JsonValue] = Field(default_factory=dict)
    raw_input: str | None = None


class Block(_Part):
    """One block of an answer: thinking, text or a tool call."""

    thinking: Deltas = ()
    text: Deltas = ()
    tool: Tool | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "Block":
        if sum(map(bool, (self.thinking, self.text, self.tool))) != 1:
            raise ValueError("a block is one of thinking, text and tool")
        return self


class Turn(_Part):
    """One answer of the model: thinking, then text, then tool calls, then `blocks` in their order.

    `text` is one string, sent word by word, or a list of deltas. `structured` is the structured output that the
    request's JSON schema asks for, and comes last. With `stamped`, each text delta is replaced by the time at which it
    is sent, in nanoseconds of this machine's monotonic clock, and a space. `first` are the faults of the first requests
    for this turn, each for as many requests as its `times`; `fault` is the fault of all requests after those.
    """

    thinking: Deltas = ()
    text: Deltas = ()
    tools: tuple[Tool, ...] = ()
    blocks: tuple[Block, ...] = ()
    structured: JsonValue = None
    stop: StopReason | None = None
    category: str | None = Field(None, max_length=100, description="of a refusal")
    pace_ms: float = Field(0, ge=0, description="between two deltas")
    stamped: bool = False
    input_tokens: int | None = Field(None, ge=0)
    output_tokens: int | None = Field(None, ge=0)
    first: tuple[AnyFault, ...] = ()
    fault: AnyFault | None = None

    @property
    def content(self) -> tuple[Block, ...]:
        """All blocks, including the tool call that gives the structured output."""
        first = [Block(thinking=self.thinking)] if self.thinking else []
        if self.text:
            first.append(Block(text=self.text))
        last = []
        if self.structured is not None:
            value = self.structured if isinstance(self.structured, dict) else {"value": self.structured}
            last.append(Block(tool=Tool(name="StructuredOutput", input=value)))
        return (*first, *(Block(tool=tool) for tool in self.tools), *self.blocks, *last)

    @property
    def calls(self) -> tuple[Tool, ...]:
        """The tool calls among the blocks."""
        return tuple(block.tool for block in self.content if block.tool is not None)

    @property
    def stop_reason(self) -> StopReason:
        """The stop reason of the answer."""
        return self.stop or ("tool_use" if self.calls else "end_turn")

    def fault_of(self, attempt: int, *, streams: bool) -> Fault | None:
        """The fault of a request; None for none. `attempt` counts the requests for this turn from 0."""
        for fault in self.first:
            if attempt < fault.times:
                break
            attempt -= fault.times
        else:
            if self.fault is None:
                return None
            fault = self.fault
        return fault if streams or fault.kind in BEFORE_HEADERS else None


class Conversation(_Part):
    """The turns of conversations in whose first prompt the regular expression `when` matches.

    `afterwards` is the answer to every request after the last turn; without it, such a request is an error.
    """

    when: str = ""
    turns: tuple[Turn, ...] = Field(min_length=1)
    afterwards: Turn | None = None

    @model_validator(mode="after")
    def _compiles(self) -> "Conversation":
        try:
            _ = self.pattern
        except re.error as error:
            raise ValueError(f"when: {error}") from None
        return self

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """`when`, compiled."""
        return re.compile(self.when, re.DOTALL)

    def turn(self, position: int) -> Turn:
        """The turn at a position, from 0; raises ScriptError when there is none."""
        if position < len(self.turns):
            return self.turns[position]
        if self.afterwards is None:
            raise ScriptError(
                f"the script's conversation has {len(self.turns)} turns, turn {position + 1} was asked for"
            )
        return self.afterwards


class Script(_Part):
    """Conversations in order of preference. In YAML, `turns` alone, with `afterwards` or without, is one conversation
    for every prompt.
    """

    conversations: tuple[Conversation, ...] = Field(min_length=1)
    model: str = Field("", description="the name of the model in answers; empty: the one that was asked for")

    @model_validator(mode="before")
    @classmethod
    def _one_conversation(cls, value: Any) -> Any:
        if isinstance(value, dict) and "turns" in value:
            alone = {name: item for name, item in value.items() if name in ("turns", "afterwards")}
            rest = {name: item for name, item in value.items() if name not in alone}
            return {"conversations": [alone], **rest}
        return value

    @classmethod
    def of(cls, *turns: Turn) -> "Script":
        """One conversation for every prompt."""
        return cls(conversations=(Conversation(turns=turns),))

    def find(self, messages: list[JsonValue]) -> Turn:
        """The turn that answers a request with these messages; raises ScriptError when the script has none."""
        return self.turn(next((text for _, text in prompts(messages)), ""), answers(messages))

    def turn(self, prompt: str, position: int) -> Turn:
        """The turn at a position of the conversation for a prompt; raises ScriptError when the script has none."""
        for conversation in self.conversations:
            if conversation.pattern.search(prompt):
                return conversation.turn(position)
        raise ScriptError("the script has no conversation for this prompt")


def parse_script(text: str) -> Script:
    """Parse a script's YAML; raises ScriptError."""
    try:
        return script_of(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ScriptError(f"not YAML: {error}") from None


def script_of(value: object) -> Script:
    """A script from what its YAML would hold; raises ScriptError, which names the field."""
    try:
        return Script.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ScriptError(f"{where or 'script'}: {first['msg'].removeprefix('Value error, ')}") from None


def load_script(path: Path) -> Script:
    """Read a script from a YAML file; raises ScriptError."""
    try:
        return parse_script(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"{path}: {error}") from None


def answers(messages: list[JsonValue]) -> int:
    """How many answers of the model a request's messages contain; neighbouring messages of the model count as one."""
    roles = [role for role in (_role(message) for message in messages) if role in ("user", "assistant")]
    return sum(role == "assistant" and before != "assistant" for before, role in zip(["", *roles], roles, strict=False))


def prompts(messages: list[JsonValue]) -> Iterator[tuple[int, str]]:
    """What the user has said: where the message stands, and its text without the reminders that the CLI adds."""
    for at, message in enumerate(messages):
        if _role(message) == "user":
            assert isinstance(message, dict)
            content = message.get("content")
            blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
            texts = [
                str(block.get("text")) for block in blocks if isinstance(block, dict) and block.get("type") == "text"
            ]
            yield at, "\n".join(text for text in texts if not text.startswith("<system-reminder>"))


def _role(message: JsonValue) -> str:
    return str(message.get("role")) if isinstance(message, dict) else ""

"""The lines of the Claude CLI that `stream` events carry as `message`, described for readers in other languages.

The endpoint passes lines on as they are and reads none of them by these models: they describe what a whole line of a
known kind holds. A newer CLI may write further kinds and fields, and a line that was cut (`cut`) may lack fields, so a
reader skips what it does not know.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ClaudeText(_Described):
    """Words of the model."""

    type: Literal["text"] = "text"
    text: str


class ClaudeThinking(_Described):
    """What the model thought before it answered."""

    type: Literal["thinking"] = "thinking"
    thinking: str


class ClaudeToolUse(_Described):
    """The model calls a tool; the answer to it is the ClaudeToolResult with this `id` as its `tool_use_id`."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, JsonValue]


class ClaudeToolResult(_Described):
    """What a tool answered: a text, or blocks of which some are text."""

    type: Literal["tool_result"] = "tool_result"
    tool_use_id: str
    content: str | list[dict[str, JsonValue]] | None = None
    is_error: bool | None = None


class ClaudeTextDelta(_Described):
    """The next words of a block. Those of the main conversation come as `text` of the event instead."""

    type: Literal["text_delta"] = "text_delta"
    text: str


class ClaudeThinkingDelta(_Described):
    """The next thoughts of a block."""

    type: Literal["thinking_delta"] = "thinking_delta"
    thinking: str


class ClaudeInputDelta(_Described):
    """The next piece of a tool's input: the pieces of a block, joined, are its JSON."""

    type: Literal["input_json_delta"] = "input_json_delta"
    partial_json: str


class ClaudeSignatureDelta(_Described):
    """The signature of a block of thoughts."""

    type: Literal["signature_delta"] = "signature_delta"
    signature: str


class ClaudeMessageHead(_Described):
    """What a message of the model is known by."""

    id: str
    model: str


class ClaudeMessageEnd(_Described):
    """Why a message ended, as the model's service names it."""

    stop_reason: str | None


class ClaudeMessageStart(_Described):
    """A message of the model begins."""

    type: Literal["message_start"] = "message_start"
    message: ClaudeMessageHead


class ClaudeBlockStart(_Described):
    """Block `index` of the message begins; a tool's `input` is still empty."""

    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: Annotated[ClaudeText | ClaudeThinking | ClaudeToolUse, Field(discriminator="type")]


class ClaudeBlockDelta(_Described):
    """Block `index` of the message goes on."""

    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: Annotated[
        ClaudeTextDelta | ClaudeThinkingDelta | ClaudeInputDelta | ClaudeSignatureDelta, Field(discriminator="type")
    ]


class ClaudeBlockStop(_Described):
    """Block `index` of the message is whole."""

    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class ClaudeMessageDelta(_Described):
    """Why the message ends."""

    type: Literal["message_delta"] = "message_delta"
    delta: ClaudeMessageEnd


class ClaudeMessageStop(_Described):
    """The message has ended."""

    type: Literal["message_stop"] = "message_stop"


class _Line(_Described):
    session_id: str
    uuid: str


class _Spoken(_Line):
    """A line of a conversation: of the main one, or of the subagent that the tool call `parent_tool_use_id` started."""

    parent_tool_use_id: str | None


class ClaudePartial(_Spoken):
    """A piece of a message as it comes; `api_message_id` is the id of that message."""

    type: Literal["stream_event"] = "stream_event"
    api_message_id: str | None = None
    event: Annotated[
        ClaudeMessageStart
        | ClaudeBlockStart
        | ClaudeBlockDelta
        | ClaudeBlockStop
        | ClaudeMessageDelta
        | ClaudeMessageStop,
        Field(discriminator="type"),
    ]


class ClaudeAssistantBody(ClaudeMessageHead):
    """The message, with the one block that this line tells."""

    content: list[Annotated[ClaudeText | ClaudeThinking | ClaudeToolUse, Field(discriminator="type")]]


class ClaudeAssistant(_Spoken):
    """One whole block of a message of the model; the lines of one message have the same `message.id`."""

    type: Literal["assistant"] = "assistant"
    message: ClaudeAssistantBody
    is_api_error_message: bool | None = None


class ClaudeUserBody(_Described):
    """What the model is told."""

    content: str | list[Annotated[ClaudeText | ClaudeToolResult, Field(discriminator="type")]]


class ClaudeUser(_Spoken):
    """What the model is told next: the answers of tools, or the task of a subagent."""

    type: Literal["user"] = "user"
    message: ClaudeUserBody
    subagent_type: str | None = None
    task_description: str | None = None


class ClaudeResult(_Line):
    """The CLI has answered. `is_error` is true also for some lines whose `subtype` is "success"."""

    type: Literal["result"] = "result"
    subtype: str
    is_error: bool
    num_turns: int
    duration_ms: int
    total_cost_usd: float
    result: str | None = None
    structured_output: JsonValue = None


class ClaudeSystem(_Line):
    """What the CLI says itself; `subtype` tells what: `init`, `api_retry`, `permission_denied`, `task_started`, …."""

    type: Literal["system"] = "system"
    subtype: str
    model: str | None = None
    tools: list[str] | None = None
    content: str | None = None
    message: str | None = None
    tool_name: str | None = None
    tool_use_id: str | None = None
    task_id: str | None = None
    description: str | None = None
    status: str | None = None
    summary: str | None = None


ClaudeMessage = ClaudeAssistant | ClaudeUser | ClaudePartial | ClaudeResult | ClaudeSystem
CLAUDE_MESSAGE: TypeAdapter[ClaudeMessage] = TypeAdapter(Annotated[ClaudeMessage, Field(discriminator="type")])

"""The events of a run: `status` and `stream`, then exactly one `done` or `error`. Each is a frozen value."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from modal_app.contract.errors import RECOVERABLE, ErrorCode


class Phase(StrEnum):
    """The phases of a run; `order` says which may follow which."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    SANDBOX_STARTING = "sandbox_starting"
    SANDBOX_READY = "sandbox_ready"
    RUNNING = "running"
    COMMITTING = "committing"
    TERMINATING = "terminating"


Channel = Literal["stdout", "stderr", "claude"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # the fields of a newer endpoint are skipped


class Commit(_Part):
    """What became of the files that the run wrote; `committed` is true when the platform has confirmed all of them.

    `changed` counts these files. `compared` counts those of them that were read back from outside the sandbox, through
    the volume's API, and were the same; a file that the job itself cannot read is compared by its size.
    """

    committed: bool
    elapsed_ms: int = Field(ge=0)
    changed: int = Field(0, ge=0)
    compared: int = Field(0, ge=0)


class SandboxFacts(_Part):
    """The sandbox of the run; `uid` is the user its job ran as, `terminated` whether its end was confirmed.

    `warm` says that a `prewarm` had created it ahead.
    """

    id: str
    uid: int = Field(ge=0, description="0 while it is not known")
    terminated: bool
    warm: bool = False


class Timings(_Part):
    """How long the steps of a run took, in milliseconds; a step that it did not have is absent."""

    container_start_ms: int | None = Field(
        None, ge=0, description="start of the endpoint's container, if this was its first run"
    )
    queue_ms: int | None = Field(None, ge=0, description="waiting for the project, and for a turn to start a sandbox")
    sandbox_create_ms: int | None = Field(None, ge=0)
    sandbox_ready_ms: int | None = Field(None, ge=0, description="from created to proved alive")
    first_byte_ms: int | None = Field(None, ge=0, description="from the job's start to its first output")
    run_ms: int | None = Field(None, ge=0)
    commit_ms: int | None = Field(None, ge=0)
    terminate_ms: int | None = Field(None, ge=0)


class Usage(_Part):
    """What a job of the Claude CLI used: tokens as the model's service counted them, dollars by the CLI's price list.

    It counts this run alone, including its subagents, and not what its session had used before. `turns` counts the
    model's answers in the main conversation. `session_id` is what a later request gives as `resume`.
    """

    input_tokens: int = Field(0, ge=0)
    output_tokens: int = Field(0, ge=0)
    cache_read_tokens: int = Field(0, ge=0)
    cache_write_tokens: int = Field(0, ge=0)
    cost_usd: float = Field(0, ge=0)
    turns: int = Field(0, ge=0)
    session_id: str | None = None


class _Event(_Part):
    """The fields of every event.

    `seq` counts from 1 without gaps, `at_ms` is Unix time, `elapsed_ms` is the time since the run was accepted.
    """

    type: str
    run_id: str
    seq: int = Field(ge=1)
    at_ms: int = Field(ge=0)
    elapsed_ms: int = Field(ge=0)


class ModelRetry(_Part):
    """The model's service did not answer, and the Claude CLI asks again.

    `attempt` is the number of the repetition, of `most` at most, `wait_ms` how long the CLI waits before it. `status`
    is the HTTP status of the answer; it is absent when there was none, or the answer broke off.
    """

    attempt: int = Field(ge=1)
    most: int = Field(ge=1)
    wait_ms: int = Field(ge=0)
    status: int | None = Field(None, ge=100, le=599)


class StatusEvent(_Event):
    """The run entered a phase, or is in `running` and waits: with `retry` for the model, else for the platform."""

    type: Literal["status"] = "status"
    phase: Phase
    message: str
    cold_start: bool | None = None
    timings: Timings | None = None
    retry: ModelRetry | None = None


class StreamEvent(_Event):
    """The job printed `text`; the texts of one channel, joined, are its output.

    On the channel `claude`, `text` is what the model said next in a block of text. An event with a `message` instead is
    a line of the CLI, at most 64 KiB of JSON, of a kind that `ClaudeMessage` tells; `cut` says that strings in it were
    shortened. `message_id` names the block of text: the id of its message, `#` and the block's index. `replaces` names
    a block whose text is void, because its message broke off or was refused: this one takes its place. It is a
    message's id alone when nothing was told of that message's text.
    """

    type: Literal["stream"] = "stream"
    channel: Channel
    text: str = ""
    message: dict[str, JsonValue] | None = None
    message_id: str | None = None
    replaces: str | None = None
    cut: bool | None = None


class DoneEvent(_Event):
    """The job's process was seen to end with exit code 0, and the files that it wrote are committed.

    An action that only reads committed files (`files` with `list` or `read`) has no sandbox: `commit` and `sandbox` are
    then absent. A `prewarm` has no `commit`.
    """

    type: Literal["done"] = "done"
    exit_code: Literal[0] = 0
    result: JsonValue = None
    usage: Usage | None = None
    commit: Commit | None = None
    sandbox: SandboxFacts | None = None
    timings: Timings | None = None

    @property
    def outcome(self) -> str:
        """How the run ended, in one word: "done"."""
        return self.type


class ErrorEvent(_Event):
    """The run failed; `exit_code` is present if the job's process was seen to end.

    `usage` is what a job of the Claude CLI had used until then; its dollars are 0 when the CLI could not tell them.
    `commit` is present if a commit was tried, and tells how many of the files are committed although it failed.
    """

    type: Literal["error"] = "error"
    code: ErrorCode
    message: str
    recoverable: bool = Field(description=RECOVERABLE)
    exit_code: int | None = None
    usage: Usage | None = None
    commit: Commit | None = None
    sandbox: SandboxFacts | None = None
    timings: Timings | None = None

    @property
    def outcome(self) -> str:
        """How the run ended, in one word: the error's code."""
        return str(self.code)


Event = StatusEvent | StreamEvent | DoneEvent | ErrorEvent
TerminalEvent = DoneEvent | ErrorEvent
TERMINAL = (DoneEvent, ErrorEvent)

EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


class UnknownEventError(ValueError):
    """The data is not an event that this version knows."""


def parse_event(data: str | bytes) -> Event:
    """Parse one event's JSON; raises UnknownEventError for another type and for fields that are missing or wrong."""
    try:
        return EVENT.validate_json(data)
    except ValidationError as error:
        raise UnknownEventError(str(error.errors(include_url=False, include_input=False)[0]["msg"])) from None


def dump_event(event: Event) -> str:
    """One event as JSON on one line; fields that are None are left out."""
    return event.model_dump_json(exclude_none=True)

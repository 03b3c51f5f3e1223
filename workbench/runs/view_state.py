"""What a reader knows of a run, as a pure function of its events. Widgets, the CLI and tests all use this state."""

from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import JsonValue

from modal_app.actions.last_words import last_words, reason_line
from modal_app.contract.errors import ErrorCode
from modal_app.contract.events import (
    Channel,
    Commit,
    DoneEvent,
    ErrorEvent,
    Event,
    SandboxFacts,
    StatusEvent,
    StreamEvent,
    Usage,
)
from workbench.text.message_ids import SCRIPTED

SCRIPTED_MODEL = "scripted model"
STDERR_CHARS = 4096  # of its end, which tells the reason
Condition = Literal["waiting", "running", "done", "error", "refused", "lost"]


@dataclass(frozen=True)
class ViewState:
    """What is known of a run at one moment. `bytes` counts its output in bytes of UTF-8, by channel.

    `stderr` is the end of what was printed there. `scripted` says that the scripted model answered, and not a model.
    """

    condition: Condition = "waiting"
    run_id: str = ""
    phase: str = ""
    message: str = ""
    elapsed_ms: int = 0
    cold_start: bool | None = None
    events: int = 0
    bytes: dict[Channel, int] = field(default_factory=lambda: {"stdout": 0, "stderr": 0, "claude": 0})
    result: JsonValue = None
    commit: Commit | None = None
    sandbox: SandboxFacts | None = None
    usage: Usage | None = None
    code: str = ""
    stderr: str = ""
    exit_code: int | None = None
    scripted: bool = False

    @property
    def reason(self) -> str:
        """What a program that failed said last on stderr, on one printable line: the job's own words; else ""."""
        return last_words(self.stderr) if self.code == ErrorCode.PROCESS_FAILED else ""

    @property
    def reason_line(self) -> str:
        """The line of stderr that `reason` begins with; "" where it has none."""
        return reason_line(self.stderr) if self.code == ErrorCode.PROCESS_FAILED else ""

    @property
    def ended(self) -> bool:
        """Whether no more events will come."""
        return self.condition in ("done", "error", "refused", "lost")


def reduce(state: ViewState, event: Event) -> ViewState:
    """The state after an event."""
    state = replace(state, run_id=event.run_id, elapsed_ms=event.elapsed_ms, events=state.events + 1)
    match event:
        case StatusEvent():
            cold = state.cold_start if event.cold_start is None else event.cold_start
            return replace(state, condition="running", phase=event.phase, message=event.message, cold_start=cold)
        case StreamEvent():
            counts = state.bytes | {event.channel: state.bytes[event.channel] + len(event.text.encode())}
            stderr = (state.stderr + event.text)[-STDERR_CHARS:] if event.channel == "stderr" else state.stderr
            scripted = state.scripted or _is_scripted(event)
            return replace(state, bytes=counts, stderr=stderr, scripted=scripted)
        case DoneEvent():
            return replace(
                state,
                condition="done",
                message="done",
                exit_code=0,
                result=event.result,
                commit=event.commit,
                sandbox=event.sandbox,
                usage=event.usage,
            )
        case ErrorEvent():
            return replace(
                state,
                condition="error",
                message=event.message,
                code=str(event.code),
                exit_code=event.exit_code,
                sandbox=event.sandbox,
                usage=event.usage,
            )


def _is_scripted(event: StreamEvent) -> bool:
    said = (event.message or {}).get("message")
    message_id = said.get("id") if isinstance(said, dict) else event.message_id
    return isinstance(message_id, str) and message_id.startswith(SCRIPTED)


def refused(state: ViewState, code: str, message: str) -> ViewState:
    """The state after the request was refused: there is no run, or none that this request is about."""
    return replace(state, condition="refused", code=code, message=message)


def lost(state: ViewState, code: str, message: str) -> ViewState:
    """The state after the stream was lost: how the run ended is then not known."""
    return replace(state, condition="lost", code=code, message=message)


def usage_of(state: ViewState) -> str:
    """What a model was used, and its price, on one line; of the scripted model, that it is one. "" where none was."""
    if state.usage is None:
        return SCRIPTED_MODEL if state.scripted else ""
    used = state.usage
    read = used.input_tokens + used.cache_read_tokens + used.cache_write_tokens
    figures = f"{read} tokens in, {used.output_tokens} out, ${used.cost_usd:.4f}, {used.turns} turns"
    return f"{figures} ({SCRIPTED_MODEL}: nothing was spent)" if state.scripted else figures

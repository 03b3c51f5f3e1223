"""Counts the tokens and dollars that one run has used, from the lines of its Claude CLI. Pure.

Most sums in a `result` line cannot be used: `total_cost_usd` and `modelUsage` count the whole session, from its first
run on, and `usage` leaves out subagents and the answer at which a budget ended. `model_usage_since_last_result` is
right. For what came after the last result, or if there is none, the usage that each answer tells is added up.
"""

from collections import Counter
from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.actions.claude_lines import Object
from modal_app.contract.json_text import count_of

_SERVICE_FIELDS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_CLI_FIELDS = dict(
    zip(
        ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens"),
        _SERVICE_FIELDS,
        strict=True,
    )
)
_MAX_SPEAKERS = 64  # the main conversation and its subagents
_SYNTHETIC_MODEL = "<synthetic>"  # the model that the CLI names for messages of its own


@dataclass(frozen=True)
class Usage:
    """What a job has used: tokens as the model's service counted them, US dollars by the CLI's own price list."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0


@dataclass
class _Answering:
    """The current message of one conversation, and the token counts that it has told; later counts replace earlier."""

    message_id: str
    told: dict[str, int]


class Spent:
    """Adds up what the lines of one run tell.

    `turns` counts the model's complete answers in the main conversation, not those of subagents.
    """

    def __init__(self) -> None:
        self.turns = 0
        self._counted: Counter[str] = Counter()  # tokens up to the last result
        self._cost_usd = 0.0
        self._seen: Counter[str] = Counter()  # tokens since the last result, in messages that are complete
        self._open: dict[str, _Answering] = {}

    @property
    def usage(self) -> Usage:
        """What the run has used so far. The dollars do not include what came after the last result."""
        total = self._counted + self._since()
        read, written, cached, kept = (total[name] for name in _SERVICE_FIELDS)
        return Usage(read, written, cached, kept, self._cost_usd)

    def note(self, line: Object) -> None:
        """Take the next line."""
        speaker = str(line.get("parent_tool_use_id"))
        match line.get("type"):
            case "stream_event":
                self._stream(speaker, line.get("event"))
            case "assistant":
                self._block(speaker, line.get("message"))
            case "result":
                self._settle(line.get("model_usage_since_last_result"))

    def _stream(self, speaker: str, event: JsonValue) -> None:
        if not isinstance(event, dict):
            return
        match event.get("type"):
            case "message_start":
                message = event.get("message")
                if isinstance(message, dict):
                    self._begin(speaker, message)
            case "message_delta":
                if speaker in self._open:
                    self._open[speaker].told |= _told(event.get("usage"))
                delta = event.get("delta")
                if isinstance(delta, dict) and delta.get("stop_reason") is not None:
                    self._answered(speaker)

    def _block(self, speaker: str, message: JsonValue) -> None:
        """Take a block of an answer. One whose message did not stream (a subagent's, a second try) is counted here."""
        if not isinstance(message, dict) or message.get("model") == _SYNTHETIC_MODEL:
            return
        answering = self._open.get(speaker)
        if answering is None or answering.message_id != str(message.get("id")):
            self._begin(speaker, message)
            self._answered(speaker)

    def _answered(self, speaker: str) -> None:
        self.turns += speaker == str(None)

    def _begin(self, speaker: str, message: Object) -> None:
        self._close(speaker)
        if len(self._open) >= _MAX_SPEAKERS:
            self._close(next(iter(self._open)))
        self._open[speaker] = _Answering(str(message.get("id")), _told(message.get("usage")))

    def _close(self, speaker: str) -> None:
        if (answering := self._open.pop(speaker, None)) is not None:
            self._seen.update(answering.told)

    def _since(self) -> Counter[str]:
        return sum((Counter(answering.told) for answering in self._open.values()), Counter(self._seen))

    def _settle(self, models: JsonValue) -> None:
        """Take a result's `model_usage_since_last_result`.

        It includes subagents but no answers that failed, so for each kind of token the larger count is taken.
        """
        accounts = [model for model in (models.values() if isinstance(models, dict) else ()) if isinstance(model, dict)]
        told: Counter[str] = Counter()
        for model in accounts:
            told.update({ours: count_of(model.get(name)) for name, ours in _CLI_FIELDS.items()})
            self._cost_usd += _amount(model.get("costUSD"))
        self._counted += told | self._since()
        self._seen.clear()
        for answering in self._open.values():
            answering.told = {}


def _told(usage: JsonValue) -> dict[str, int]:
    return (
        {name: count_of(usage.get(name)) for name in _SERVICE_FIELDS if name in usage}
        if isinstance(usage, dict)
        else {}
    )


def _amount(value: JsonValue) -> float:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53 else 0.0
    )

"""What one run has cost, by the lines of its Claude CLI. Pure.

A result's own sums are of no use for that: `total_cost_usd` and `modelUsage` count a session from its first run on, and
`usage` leaves out subagents, and the answer at which a budget ended. `model_usage_since_last_result` counts what it
says; what each answer tells of itself is for a CLI that ended without a result, or before it had counted.
"""

from collections import Counter
from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.actions.claude_lines import Object
from modal_app.contract.json_text import count_of

_OF_THE_SERVICE = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_OF_THE_CLI = dict(
    zip(
        ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens"),
        _OF_THE_SERVICE,
        strict=True,
    )
)
_MAX_SPEAKERS = 64  # the conversation and its subagents
_NOBODY = "<synthetic>"  # the CLI's name for the model of what it says itself


@dataclass(frozen=True)
class Usage:
    """What a job cost: tokens as the model's service counted them, dollars by the CLI's price list."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0


@dataclass
class _Answering:
    """One speaker's message, and what it has told of its tokens; a later figure takes an earlier one's place."""

    message_id: str
    told: dict[str, int]


class Spent:
    """Sums up the lines of one run.

    `turns` counts the whole answers of the model in the conversation itself, not those of its subagents.
    """

    def __init__(self) -> None:
        self.turns = 0
        self._counted: Counter[str] = Counter()  # up to the last result
        self._cost_usd = 0.0
        self._seen: Counter[str] = Counter()  # since then, in messages that are over
        self._open: dict[str, _Answering] = {}

    @property
    def usage(self) -> Usage:
        """What the run has cost so far. What came after the last result has no price yet."""
        total = self._counted + self._since()
        read, written, cached, kept = (total[name] for name in _OF_THE_SERVICE)
        return Usage(read, written, cached, kept, self._cost_usd)

    def note(self, line: Object) -> None:
        """Take a line."""
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
        """A block of an answer that streams, or of one that does not: a subagent's, or a second try."""
        if not isinstance(message, dict) or message.get("model") == _NOBODY:
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
        """Take the CLI's account of what came since the last result: it knows subagents, but no answer that failed."""
        accounts = [model for model in (models.values() if isinstance(models, dict) else ()) if isinstance(model, dict)]
        told: Counter[str] = Counter()
        for model in accounts:
            told.update({ours: count_of(model.get(name)) for name, ours in _OF_THE_CLI.items()})
            self._cost_usd += _amount(model.get("costUSD"))
        self._counted += told | self._since()
        self._seen.clear()
        for answering in self._open.values():
            answering.told = {}


def _told(usage: JsonValue) -> dict[str, int]:
    return (
        {name: count_of(usage.get(name)) for name in _OF_THE_SERVICE if name in usage}
        if isinstance(usage, dict)
        else {}
    )


def _amount(value: JsonValue) -> float:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53 else 0.0
    )

"""How a job of the Claude CLI ended, in the words of the contract. Pure.

The CLI's exit code does not tell: an answer with an error may say `subtype: success`, one with denied permissions or
without the structured output that was asked for exits with 0.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.actions.claude_lines import Object
from modal_app.contract.errors import ContractError, ErrorCode

MAX_SENTENCE_CHARS = 1000
_MAX_NAMES = 8
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TOKENS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_MAX_SPEAKERS = 64  # the conversation and its subagents
_UNPARSED = "__unparsedToolInput"  # the CLI's name for a tool's input that is not JSON
_BY_SUBTYPE = {
    "error_max_turns": ErrorCode.PROCESS_FAILED,
    "error_max_budget_usd": ErrorCode.PROCESS_FAILED,
    "error_max_structured_output_retries": ErrorCode.MODEL_INVALID_OUTPUT,
    "error_during_execution": ErrorCode.PROCESS_FAILED,
}
_BY_ANSWER = {"max_output_tokens": ErrorCode.MODEL_INVALID_OUTPUT}  # every other failed answer is the model's service's


@dataclass(frozen=True)
class Usage:
    """What a job cost: tokens as the model's service counted them, dollars by the CLI's price list."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The end of a job. It succeeded when `error` is None.

    `denied` are the tools whose use was not permitted, `turns` counts the model's answers.
    """

    result: str
    structured_output: JsonValue
    session_id: str | None
    usage: Usage
    turns: int
    duration_ms: int
    denied: tuple[str, ...]
    error: ContractError | None


class Account:
    """Remembers what of a CLI's lines decides its verdict."""

    def __init__(self, *, wants_structured: bool) -> None:
        self.failure: ContractError | None = None
        self._wants_structured = wants_structured
        self._session_id: str | None = None
        self._answer_error = ""
        self._result: Object | None = None
        self._denied: dict[str, None] = {}
        self._spent = _Spent()

    def note(self, line: Object) -> None:
        """Take a line."""
        session = line.get("session_id")
        if isinstance(session, str) and _SESSION.fullmatch(session):
            self._session_id = session
        match line.get("type"):
            case "assistant":
                self._answer(line)
            case "stream_event":
                self._spent.note(line)
            case "result":
                self._result = line
                for tool in _denials(line):
                    self._denied.setdefault(_sentence(tool), None)

    def verdict(self, exit_code: int) -> Verdict:
        """The end of a CLI that ended with this exit code; negative or above 128 is a signal's."""
        result = self._result or {}
        usage = result.get("usage")
        tokens = usage if isinstance(usage, dict) else self._spent.tokens
        return Verdict(
            result=str(result.get("result") or ""),
            structured_output=result.get("structured_output"),
            session_id=self._session_id,
            usage=Usage(
                input_tokens=_count(tokens.get("input_tokens")),
                output_tokens=_count(tokens.get("output_tokens")),
                cache_read_tokens=_count(tokens.get("cache_read_input_tokens")),
                cache_write_tokens=_count(tokens.get("cache_creation_input_tokens")),
                cost_usd=_amount(result.get("total_cost_usd")),
            ),
            turns=_count(result.get("num_turns", self._spent.answers)),
            duration_ms=_count(result.get("duration_ms")),
            denied=tuple(self._denied),
            error=self._error(exit_code),
        )

    def _answer(self, line: Object) -> None:
        self._answer_error = str(line.get("error") or "") if line.get("is_api_error_message") is True else ""
        message = line.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else []:
            given = block.get("input") if isinstance(block, dict) else None
            if isinstance(block, dict) and isinstance(given, dict) and _UNPARSED in given and self.failure is None:
                tool = _sentence(block.get("name"))
                self.failure = ContractError(
                    ErrorCode.MODEL_INVALID_OUTPUT, f"the model called the tool {tool} with an input that is not JSON"
                )

    def _error(self, exit_code: int) -> ContractError | None:
        if self.failure is not None:
            return self.failure
        if self._result is None:
            sentence = f"the Claude CLI ended with exit code {exit_code} and without a result"
            return ContractError(ErrorCode.PROCESS_FAILED, sentence, exit_code=exit_code)
        subtype = str(self._result.get("subtype"))
        if subtype != "success":
            code = _BY_SUBTYPE.get(subtype, ErrorCode.PROCESS_FAILED)
            return ContractError(code, _first_error(self._result) or _sentence(subtype), exit_code=exit_code)
        if self._result.get("is_error") is not False:  # whatever else it is
            code = _BY_ANSWER.get(self._answer_error, ErrorCode.MODEL_ERROR)
            sentence = _sentence(self._result.get("result")) or "the model's service failed"
            return ContractError(code, sentence, exit_code=exit_code)
        if exit_code != 0:
            sentence = f"the Claude CLI ended with exit code {exit_code}"
            return ContractError(ErrorCode.PROCESS_FAILED, sentence, exit_code=exit_code)
        if self._denied:
            names = ", ".join(list(self._denied)[:_MAX_NAMES])
            sentence = f"the job was not permitted to use {names}: allow them, or choose another permission mode"
            return ContractError(ErrorCode.PERMISSION_DENIED, sentence, exit_code=exit_code)
        if self._wants_structured and "structured_output" not in self._result:
            sentence = "the model ended without the structured output that was asked for"
            return ContractError(ErrorCode.MODEL_INVALID_OUTPUT, sentence, exit_code=exit_code)
        return None


class _Spent:
    """Sums what answers tell of their cost while they come: a CLI that is ended tells no sum."""

    def __init__(self) -> None:
        self.answers = 0
        self._ended: Counter[str] = Counter()
        self._open: dict[str, dict[str, int]] = {}

    @property
    def tokens(self) -> Object:
        """In the words of a result's usage."""
        return dict(sum((Counter(one) for one in self._open.values()), self._ended))

    def note(self, line: Object) -> None:
        """Take a line of an answer that streams."""
        event, speaker = line.get("event"), str(line.get("parent_tool_use_id"))
        kind = event.get("type") if isinstance(event, dict) else None
        if not isinstance(event, dict) or kind not in ("message_start", "message_delta"):
            return
        holder = event.get("message") if kind == "message_start" else event
        usage = holder.get("usage") if isinstance(holder, dict) else None
        told = (
            {name: _count(value) for name, value in usage.items() if name in _TOKENS} if isinstance(usage, dict) else {}
        )
        if kind == "message_start":
            self.answers += 1
            self._ended.update(self._open.pop(speaker, {}))
            if len(self._open) >= _MAX_SPEAKERS:
                self._ended.update(self._open.pop(next(iter(self._open))))
        self._open[speaker] = {**self._open.get(speaker, {}), **told}


def _denials(result: Object) -> Iterator[JsonValue]:
    denials = result.get("permission_denials")
    for denial in denials if isinstance(denials, list) else []:
        yield denial.get("tool_name") if isinstance(denial, dict) else denial


def _first_error(result: Object) -> str:
    errors = result.get("errors")
    return _sentence(errors[0]) if isinstance(errors, list) and errors else ""


def _sentence(value: JsonValue) -> str:
    """Text of the CLI or the model on one line of bounded length."""
    text = _CONTROL.sub(" ", value).strip() if isinstance(value, str) else ""
    return text if len(text) <= MAX_SENTENCE_CHARS else f"{text[:MAX_SENTENCE_CHARS]}…"


def _count(value: JsonValue) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0


def _amount(value: JsonValue) -> float:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53 else 0.0
    )

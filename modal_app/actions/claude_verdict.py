"""Judges how a job of the Claude CLI ended, as an error code of the contract or a success. Pure.

The CLI's exit code is not enough: it is 0 when a permission was denied or the structured output is missing, and a
result with an error may say `subtype: success`. Nor is the last result: there may be several, and the first one that
failed is the reason why the job failed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.actions.claude_answer import Answer
from modal_app.actions.claude_lines import Object, blocks_of
from modal_app.actions.claude_usage import Spent, Usage
from modal_app.contract.caps import MAX_RESULT_BYTES
from modal_app.contract.errors import ContractError, ErrorCode

MAX_SENTENCE_CHARS = 1000
_MAX_NAMES = 8
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REFUSAL = "model_refusal"  # how the CLI's lines about refusals begin: it may ask another model
_UNPARSED = "__unparsedToolInput"  # the CLI's name for a tool's input that is not JSON
_BY_SUBTYPE = {
    "error_max_turns": ErrorCode.PROCESS_FAILED,
    "error_max_budget_usd": ErrorCode.PROCESS_FAILED,
    "error_max_structured_output_retries": ErrorCode.MODEL_INVALID_OUTPUT,
    "error_during_execution": ErrorCode.PROCESS_FAILED,
}
_BY_ANSWER = {"max_output_tokens": ErrorCode.MODEL_INVALID_OUTPUT}
_BY_STATUS = {429: ErrorCode.MODEL_RATE_LIMITED, 529: ErrorCode.MODEL_OVERLOADED}


@dataclass(frozen=True)
class Verdict:
    """How a job ended. It succeeded when `error` is None.

    `result` is the answer's text, `structured_output` its data. `denied` are the names of the tools whose use was not
    permitted, `turns` counts the model's answers.
    """

    result: str
    structured_output: JsonValue
    session_id: str | None
    usage: Usage
    turns: int
    denied: tuple[str, ...]
    error: ContractError | None


@dataclass(frozen=True)
class _Failed:
    """Why a result counts as failed."""

    code: ErrorCode
    sentence: str


class Account:
    """Collects from the CLI's lines what decides the verdict.

    `failure` is set when the run cannot succeed any more although the CLI goes on.
    """

    def __init__(self, *, wants_structured: bool) -> None:
        self.failure: ContractError | None = None
        self.answer = Answer()
        self._wants_structured = wants_structured
        self._session_id: str | None = None
        self._answer_error = ""
        self._category = ""  # of the last refusal that said one
        self._results = 0
        self._failed: _Failed | None = None
        self._denied: dict[str, None] = {}
        self._spent = Spent()

    def note(self, line: Object) -> None:
        """Take the next line."""
        session = line.get("session_id")
        if isinstance(session, str) and _SESSION.fullmatch(session):
            self._session_id = session
        self._spent.note(line)
        self.answer.note(line)
        if self.answer.too_large and self.failure is None:
            self.failure = ContractError(
                ErrorCode.TOO_LARGE, f"the answer is too large: at most {MAX_RESULT_BYTES} bytes of text and data"
            )
        match line.get("type"):
            case "assistant":
                self._answered(line)
            case "system" if str(line.get("subtype")).startswith(_REFUSAL):
                self._category = _sentence(line.get("api_refusal_category")) or self._category
            case "result":
                self._result(line)

    def verdict(self, exit_code: int) -> Verdict:
        """The verdict on a CLI that ended with this exit code; a negative one, or one above 128, means a signal."""
        return Verdict(
            result=self.answer.text,
            structured_output=self.answer.structured,
            session_id=self._session_id,
            usage=self._spent.usage,
            turns=self._spent.turns,
            denied=tuple(self._denied),
            error=self._error(exit_code),
        )

    def _answered(self, line: Object) -> None:
        self._answer_error = str(line.get("error") or "") if line.get("is_api_error_message") is True else ""
        for block in blocks_of(line):
            given = block.get("input")
            if isinstance(given, dict) and _UNPARSED in given and self.failure is None:
                tool = _sentence(block.get("name"))
                self.failure = ContractError(
                    ErrorCode.MODEL_INVALID_OUTPUT, f"the model called the tool {tool} with an input that is not JSON"
                )

    def _result(self, line: Object) -> None:
        self._results += 1
        self._failed = self._failed or self._why(line)
        for tool in _denials(line):
            self._denied.setdefault(_sentence(tool), None)

    def _why(self, result: Object) -> _Failed | None:
        subtype = str(result.get("subtype"))
        if subtype != "success":
            code = _BY_SUBTYPE.get(subtype, ErrorCode.PROCESS_FAILED)
            if str(result.get("terminal_reason")).startswith("aborted"):  # its `errors` are then the CLI's diagnostics
                return _Failed(code, "the Claude CLI was interrupted")
            return _Failed(code, _first_error(result) or _sentence(subtype))
        if result.get("is_error") is not False:  # anything but false counts as an error, also when it is missing
            code = self._code_of_answer(result)
            sentence = _sentence(result.get("result")) or "the model's service failed"
            named = code is ErrorCode.MODEL_REFUSED and self._category
            return _Failed(code, f"the model refused, as {self._category}: {sentence}" if named else sentence)
        return None

    def _code_of_answer(self, result: Object) -> ErrorCode:
        """The code of an answer that failed; `model_error` when nothing more is known of it."""
        status = result.get("api_error_status")
        if isinstance(status, int) and status in _BY_STATUS:
            return _BY_STATUS[status]
        if result.get("stop_reason") == "refusal":
            return ErrorCode.MODEL_REFUSED
        if result.get("terminal_reason") == "prompt_too_long":
            return ErrorCode.CONTEXT_FULL
        return _BY_ANSWER.get(self._answer_error, ErrorCode.MODEL_ERROR)

    def _error(self, exit_code: int) -> ContractError | None:
        if self.failure is not None:
            return self.failure
        if self._failed is not None:
            return ContractError(self._failed.code, self._failed.sentence, exit_code=exit_code)
        if self._results == 0:
            sentence = f"the Claude CLI ended with exit code {exit_code} and without a result"
            return ContractError(ErrorCode.PROCESS_FAILED, sentence, exit_code=exit_code)
        if exit_code != 0:
            sentence = f"the Claude CLI ended with exit code {exit_code}"
            return ContractError(ErrorCode.PROCESS_FAILED, sentence, exit_code=exit_code)
        if self._denied:
            names = ", ".join(list(self._denied)[:_MAX_NAMES])
            sentence = f"the job was not permitted to use {names}: allow them, or choose another permission mode"
            return ContractError(ErrorCode.PERMISSION_DENIED, sentence, exit_code=exit_code)
        if self._wants_structured and not self.answer.has_structured:
            sentence = "the model ended without the structured output that was asked for"
            return ContractError(ErrorCode.MODEL_INVALID_OUTPUT, sentence, exit_code=exit_code)
        return None


def _denials(result: Object) -> Iterator[JsonValue]:
    denials = result.get("permission_denials")
    for denial in denials if isinstance(denials, list) else []:
        yield denial.get("tool_name") if isinstance(denial, dict) else denial


def _first_error(result: Object) -> str:
    errors = result.get("errors")
    return _sentence(errors[0]) if isinstance(errors, list) and errors else ""


def _sentence(value: JsonValue) -> str:
    """A text of the CLI or the model on one line of bounded length; "" for a value that is no text."""
    text = _CONTROL.sub(" ", value).strip() if isinstance(value, str) else ""
    return text if len(text) <= MAX_SENTENCE_CHARS else f"{text[:MAX_SENTENCE_CHARS]}…"

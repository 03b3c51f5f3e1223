"""Runs as messages of the real AI SDK: what it makes of each recorded run of the Claude CLI, and its chat over ours."""

import json
from pathlib import Path
from typing import Any

import pytest

from modal_app.contract.errors import ErrorCode
from modal_app.contract.events import DoneEvent, ErrorEvent, Event, StatusEvent, Usage, dump_event
from tests.quick.modal_app.test_claude_stream import read, recorded
from tests.standard.javascript.conftest import NODE
from tests.standard.javascript.test_client import built, node
from tests.standard.javascript.test_conversation import CASES, events, shown

__all__ = ["shown"]
pytestmark = NODE
SESSION = "the session of the run"
Parts = list[dict[str, Any]]


def whole_run(name: str) -> Parts:
    """A recorded run's events, from the first to the last."""
    _, verdict = read(recorded(name))
    told = events(name)
    stamp = {"run_id": "r", "at_ms": 1, "elapsed_ms": 1}
    first = StatusEvent(**stamp, seq=1, phase="accepted", message="accepted")
    last: Event = DoneEvent(**stamp, seq=len(told) + 2, result=verdict.result, usage=Usage(session_id=SESSION))
    if verdict.error is not None:
        code, message = ErrorCode.MODEL_ERROR, "the model is at fault"
        last = ErrorEvent(**stamp, seq=len(told) + 2, code=code, message=message, recoverable=True)
    return [json.loads(dump_event(first)), *told, json.loads(dump_event(last))]


def messages_of(scripts: Path, node_binary: str = "node") -> dict[str, Any]:
    """The AI SDK's message for each recorded run; fails with what the script's tests say."""
    told, found = built(scripts) / "recorded_runs.json", scripts / "recorded_messages.json"
    told.write_text(json.dumps({name: whole_run(name) for name in CASES}))
    node(scripts, "--test-reporter=spec", "ai_sdk.mjs", str(told), str(found), binary=node_binary)
    return dict(json.loads(found.read_text()))


@pytest.fixture(scope="module")
def messages(scripts: Path) -> dict[str, Any]:
    return messages_of(scripts)


def words(parts: Parts, kind: str) -> str:
    return "".join(part["text"] for part in parts if part.get("type", part.get("kind")) == kind)


@pytest.mark.parametrize("name", CASES)
def test_the_words_are_those_that_a_page_shows(name: str, messages: dict[str, Any], shown: dict[str, Parts]) -> None:
    """Those of the subagents are in parts of their own."""
    ours = [part for part in shown[name] if part.get("subagent") is None]
    standing = messages[name]["standing"]
    assert words(standing, "text") == words(ours, "text")
    assert {part.get("state") for part in standing if part["type"] in {"text", "reasoning"}} <= {"done"}
    theirs = {part["id"]: part["data"] for part in standing if part["type"] == "data-subagent"}
    assert list(theirs.values()) == [part for part in shown[name] if part.get("subagent") is not None]


@pytest.mark.parametrize("name", CASES)
def test_every_call_of_a_tool_has_its_input_and_its_answer(
    name: str, messages: dict[str, Any], shown: dict[str, Parts]
) -> None:
    """A call that broke off is told to have failed; one of a message that was taken back as a whole is not shown."""
    theirs = {part["toolCallId"]: part for part in messages[name]["standing"] if part["type"] == "dynamic-tool"}
    ours = {part["id"]: part for part in shown[name] if part["kind"] == "tool" and part["subagent"] is None}
    assert theirs.keys() <= ours.keys()
    for call, part in theirs.items():
        assert part["state"] != "input-streaming"
        assert part["toolName"] == ours[call]["name"]
        assert part.get("output") == (None if ours[call]["failed"] else ours[call].get("result"))
    answered = {call for call, part in ours.items() if "result" in part}
    assert answered <= theirs.keys()
    for call in answered:
        assert theirs[call]["input"] == json.loads(ours[call]["input"])


@pytest.mark.parametrize("name", CASES)
def test_how_the_run_has_ended_is_told(name: str, messages: dict[str, Any]) -> None:
    message, end = messages[name], whole_run(name)[-1]
    data = {part["type"]: part["data"] for part in message["parts"] if part["type"].startswith("data-")}
    assert message["metadata"]["run_id"] == message["id"] == "r"
    if end["type"] == "done":
        assert message["metadata"]["session_id"] == SESSION
        assert (message["errors"], "data-failure" in data) == ([], False)
    else:
        assert message["errors"] == ["model_error: the model is at fault"]
        assert data["data-failure"] == {
            "code": "model_error",
            "message": end["message"],
            "recoverable": True,
            "run_id": "r",
        }

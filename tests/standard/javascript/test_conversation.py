"""What a page shows of a Claude job, from what the real CLI printed in each recorded case."""

import json
from pathlib import Path
from typing import Any

import pytest

from modal_app.actions.claude_action import _piece
from modal_app.contract.events import StreamEvent, dump_event
from tests.quick.modal_app.test_claude_stream import read, recorded
from tests.standard.javascript.conftest import NODE
from tests.standard.javascript.test_client import built, node
from tests.support.paths import RECORDED

pytestmark = NODE
CASES = sorted(path.stem for path in RECORDED.glob("*.jsonl"))


def events(name: str) -> list[dict[str, Any]]:
    """A recorded run's events, as its reader gets them."""
    items, _ = read(recorded(name), step=500)
    stamp = {"run_id": "r", "at_ms": 1, "elapsed_ms": 1}
    told = [StreamEvent(**stamp, seq=seq, **vars(_piece(item))) for seq, item in enumerate(items, start=2)]
    return [json.loads(dump_event(event)) for event in told]


@pytest.fixture(scope="module")
def shown(scripts: Path) -> dict[str, list[dict[str, Any]]]:
    """The parts that a page shows, for each case."""
    told = built(scripts) / "recorded_events.json"
    told.write_text(json.dumps({name: events(name) for name in CASES}))
    found: dict[str, list[dict[str, Any]]] = json.loads(node(scripts, "conversation.mjs", str(told)))
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_words_are_those_that_stand_in_the_end(name: str, shown: dict[str, list[dict[str, Any]]]) -> None:
    """None that the model took back, none twice, and also those that came whole after a stream had broken."""
    _, verdict = read(recorded(name))
    words = "".join(part["text"] for part in shown[name] if part["kind"] == "text" and part["subagent"] is None)
    told = events(name)
    void = {event["replaces"] for event in told if "replaces" in event}
    standing = [
        event["text"]
        for event in told
        if "message" not in event and event["channel"] == "claude" and event.get("message_id") not in void
    ]
    whole = "" if verdict.error is not None or verdict.structured_output is not None else verdict.result
    assert words == ("".join(standing) or whole)


@pytest.mark.parametrize("name", CASES)
def test_every_tool_is_shown_with_its_input_and_its_answer(name: str, shown: dict[str, list[dict[str, Any]]]) -> None:
    lines = [event["message"] for event in events(name) if "message" in event]
    blocks = [
        block
        for line in lines
        if line["type"] in {"assistant", "user"} and isinstance(line["message"]["content"], list)
        for block in line["message"]["content"]
    ]
    tools = {part["id"]: part for part in shown[name] if part["kind"] == "tool"}
    for block in blocks:
        if block["type"] == "tool_use":
            assert json.loads(tools[block["id"]]["input"]) == block["input"]
        elif block["type"] == "tool_result" and block["tool_use_id"] in tools:
            tool = tools[block["tool_use_id"]]
            assert tool["failed"] == (block.get("is_error") is True)
            assert tool["result"] is not None

"""A recording answers what was asked when it was made, and says what else was asked."""

import json
from typing import Any

import pytest

from modal_app.model_gateway.recording import (
    Exchange,
    Replay,
    ReplayError,
    difference,
    dump_exchange,
    parse_exchange,
    redacted,
)

PATH = "/v1/messages"


def request(*texts: Any, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    return {"model": "m", "messages": messages, "tools": [{"name": "Write"}], **more}


def exchange(answer: str, asked: dict[str, Any], **more: Any) -> Exchange:
    values = {"status": 200, "content_type": "application/json", "whole": True, **more}
    return Exchange(path=PATH, request=asked, answer=answer, **values)


def test_answers_come_by_what_is_asked_and_each_once() -> None:
    replay = Replay([exchange("1", request("a")), exchange("2", request("b")), exchange("3", request("a"))])
    answers = [replay.answer(PATH, request(text)).answer for text in ("a", "b", "a")]
    assert answers == ["1", "2", "3"]
    assert replay.left == 0
    with pytest.raises(ReplayError, match="3 exchanges do not hold another"):
        replay.answer(PATH, request("a"))


def test_what_changes_from_run_to_run_is_not_compared() -> None:
    def at(day: str, session: str) -> dict[str, Any]:
        user = [
            {"type": "text", "text": f"<system-reminder>{day}</system-reminder>"},
            {"type": "text", "text": f"go {session}", "cache_control": {"type": "ephemeral"}},
        ]
        return request(user, system=day, metadata={"user_id": session})

    first = at("2026-01-01", "00000000-0000-4000-8000-000000000000")
    second = at("2027-02-02", "11111111-0000-4000-8000-000000000000")
    second["messages"].append({"role": "system", "content": "another machine"})
    assert Replay([exchange("1", first)]).answer(PATH, second).answer == "1"


def test_a_departure_is_told_where_it_begins() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "3 files written"}
    other = {"type": "tool_result", "tool_use_id": "t", "content": "no space left"}
    replay = Replay([exchange("1", request("a")), exchange("2", request("a", "b", [result]))])
    replay.answer(PATH, request("a"))
    with pytest.raises(ReplayError) as caught:
        replay.answer(PATH, request("a", "b", [other]))
    assert "exchange 2 of the recording at messages[2].content[0].content: " in str(caught.value)
    assert "recorded '3 files written', came 'no space left'" in str(caught.value)
    assert replay.left == 1


@pytest.mark.parametrize(
    ("recorded", "asked", "told"),
    [
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, "a: 2 items were recorded, 3 came"),
        ({"a": 1}, {"b": 1}, "a: recorded '1', came 'None'"),
        ({"a": "x" * 500 + "y"}, {"a": "x" * 500 + "z"}, "a: recorded '" + "x" * 20 + "y', came '" + "x" * 20 + "z'"),
        ([1], [1], None),
    ],
)
def test_differences_are_readable(recorded: Any, asked: Any, told: str | None) -> None:
    assert difference(recorded, asked) == told


def test_a_recording_holds_no_secret_and_reads_back() -> None:
    asked = redacted(request("the key is SECRET", SECRET=["SECRET"], metadata={"user_id": "me"}), [b"SECRET"])
    kept = exchange("x", asked)
    assert "SECRET" not in dump_exchange(kept)
    assert "metadata" not in asked
    assert parse_exchange(dump_exchange(kept)) == kept
    with pytest.raises(ValueError, match="status") as caught:
        parse_exchange(json.dumps({**json.loads(dump_exchange(kept)), "status": 7, "answer": "quiet"}))
    assert "quiet" not in str(caught.value)

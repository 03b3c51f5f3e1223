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
    with pytest.raises(ReplayError, match="recording's 3 exchanges hold no further request to /v1/messages"):
        replay.answer(PATH, request("a"))


def test_what_changes_from_run_to_run_is_not_compared() -> None:
    def at(day: str, session: str) -> dict[str, Any]:
        user = [
            {"type": "text", "text": f"<system-reminder>{day}</system-reminder>"},
            {"type": "text", "text": f"go {session}", "cache_control": {"type": "ephemeral"}},
        ]
        tools = [{"name": "Write", "description": f"of the version of {day}"}]
        return request(user, system=day, metadata={"user_id": session}, context_management={"a": day}, tools=tools)

    first = at("2026-01-01", "00000000-0000-4000-8000-000000000000")
    second = at("2027-02-02", "11111111-0000-4000-8000-000000000000")
    second["messages"].append({"role": "system", "content": "another machine"})
    assert Replay([exchange("1", first)]).answer(PATH, second).answer == "1"


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [
        ("at 2026-11-27T04:58:30.123Z", "at 2027-01-01 00:00:00"),
        ("Fri Nov 27 04:58:30 UTC 2026", "Sat Nov 28 14:58:31 CET 2026"),
        ("Date:   Fri Nov 27 04:58:30 2026 +0000", "Date:   Mon Nov  2 04:58:30 2026 +0100"),
        ("-rw-r--r-- 1 u u 3 Nov 27 04:58 a.txt", "-rw-r--r-- 1 u u 3 Dec  1  2025 a.txt"),
        ("took until 10:11:12", "took until 23:59:59.5"),
        ("[main 1a2b3c4] first", "[main 9f8e7d6] first"),
        ("commit " + "a1" * 20, "commit " + "b2" * 20),
        ("/tmp/11111111-0000-4000-8000-000000000000/x", "/tmp/22222222-0000-4000-8000-000000000000/x"),
    ],
)
def test_ids_hashes_and_dates_in_what_tools_answer_are_not_compared(recorded: str, asked: str) -> None:
    def answered(text: str) -> dict[str, Any]:
        return request("a", "b", [{"type": "tool_result", "tool_use_id": "t", "content": text}])

    assert Replay([exchange("1", answered(recorded))]).answer(PATH, answered(asked)).answer == "1"


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [
        ("3 files", "4 files"),
        ("a.py:12:34", "a.py:12:35"),
        ("1234567 bytes", "1234568 bytes"),
        ("defaced", "effaced"),  # a word of the letters a to f
        ("/workspace/a", "/workspace/b"),
        ("port 8000", "port 8001"),
    ],
)
def test_all_else_that_tools_answer_is_compared(recorded: str, asked: str) -> None:
    with pytest.raises(ReplayError):
        Replay([exchange("1", request(recorded))]).answer(PATH, request(asked))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "another"),
        ("stream", True),
        ("tools", [{"name": "Read"}]),
        ("max_tokens", 7),
        ("output_config", {"format": {"type": "json_schema", "schema": {}}}),
        ("thinking", {"type": "disabled"}),
        ("tool_choice", {"type": "any"}),
    ],
)
def test_what_decides_the_answer_is_compared_field_by_field(field: str, value: Any) -> None:
    with pytest.raises(ReplayError, match=rf"at {field}") as caught:
        Replay([exchange("1", request("a"))]).answer(PATH, request("a") | {field: value})
    recorded, asked = caught.value.recorded, caught.value.asked
    assert isinstance(recorded, dict)
    assert isinstance(asked, dict)
    assert [name for name in asked if recorded.get(name) != asked[name]] == [field], "nothing else differs"


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

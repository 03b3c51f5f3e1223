"""Frames are the real service's: checked against the types of its own client, with nothing unknown in them."""

import time
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import BaseModel, TypeAdapter

from workbench.scripted_model import Block, Fault, Tool, Turn, frames
from workbench.scripted_model.frames import Answer, is_delta, stamped

EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
TURNS = {
    "text": Turn(text="Hello there"),
    "thinking": Turn(thinking="let me see", text="So"),
    "tools": Turn(text="Both", tools=(Tool(name="A", input={"x": [1, "ü" * 200]}), Tool(name="B"))),
    "blocks": Turn(
        text="a", blocks=(Block(thinking="b c"), Block(text="d"), Block(tool=Tool(name="E", input={"f": 1})))
    ),
    "structured": Turn(structured={"a": 1}),
    "refusal": Turn(text="No", stop="refusal"),
    "max_tokens": Turn(text="and then", stop="max_tokens"),
    "nothing": Turn(),
}


def unknown(value: object) -> list[str]:
    """Fields that the client's types do not have."""
    if isinstance(value, list):
        return [name for item in value for name in unknown(item)]
    if not isinstance(value, BaseModel):
        return []
    below = [name for name in type(value).model_fields for name in unknown(getattr(value, name))]
    return [*(value.model_extra or {}), *below]


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS.keys())
def test_every_frame_is_one_of_the_real_service(turn: Turn) -> None:
    told = list(Answer(turn, "m", "seed", 7).frames())
    parsed = [EVENTS.validate_python(frame) for frame in told if frame["type"] != "ping"]
    assert unknown(parsed) == []
    assert told[0]["type"] == "message_start"
    assert [frame["type"] for frame in told][-2:] == ["message_delta", "message_stop"]
    message = Message.model_validate(Answer(turn, "m", "seed", 7).message())
    assert unknown(message) == []
    assert message.stop_reason == turn.stop_reason


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS.keys())
def test_a_stream_and_a_message_say_the_same(turn: Turn) -> None:
    answer = Answer(turn, "m", "seed", 7)
    texts: dict[int, str] = {}
    for frame in answer.frames():
        if frames.is_delta(frame):
            index, delta = frame["index"], frame["delta"]
            assert isinstance(index, int)
            assert isinstance(delta, dict)
            piece = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
            texts[index] = texts.get(index, "") + str(piece)
    blocks = Message.model_validate(answer.message()).content
    tools = iter(turn.calls)
    assert list(texts.values()) == [
        frames.raw_input(next(tools)) if block.type == "tool_use" else getattr(block, block.type) for block in blocks
    ]


def test_ids_follow_from_the_seed() -> None:
    """A model that is replayed gives the same ids."""
    turn = TURNS["tools"]
    assert list(Answer(turn, "m", "a", 1).frames()) == list(Answer(turn, "m", "a", 1).frames())
    assert Answer(turn, "m", "a", 1).message()["id"] != Answer(turn, "m", "b", 1).message()["id"]


def test_errors_have_the_services_names() -> None:
    assert frames.error(Fault(status=529, message="full")) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "full"},
    }
    assert frames.error_body(500, "x")["error"] == {"type": "api_error", "message": "x"}


def test_a_stamped_turn_says_when_its_words_were_sent() -> None:
    before = time.monotonic_ns()
    answer = Answer(Turn(text="one two", stamped=True), "m", "seed", 1)
    sent = [stamped(frame) for frame in answer.frames()]
    texts = [frame["delta"]["text"] for frame in sent if is_delta(frame)]  # type: ignore[index,call-overload]
    assert len(texts) == 2
    assert before <= int(texts[0]) <= int(texts[1]) <= time.monotonic_ns()
    assert [frame["type"] for frame in sent] == [frame["type"] for frame in answer.frames()]


@pytest.mark.parametrize(
    ("raw", "whole"),
    [
        ('{"command": "touch made', '{"command": "touch made'),
        ("", ""),
        ("not JSON at all", "not JSON at all"),
        ("[1]", "[1]"),
        ("null", "null"),
        ("[" * 100_000, "[" * 100_000),
        ('{"command": "ls"}', {"command": "ls"}),
    ],
    ids=["cut", "nothing", "words", "a list", "null", "deep", "sound"],
)
def test_a_broken_call_is_broken_without_streaming_too(raw: str, whole: object) -> None:
    """As an empty input it would be a call that a client runs."""
    turn = Turn(tools=(Tool(name="Bash", input={"command": "never sent"}, raw_input=raw),))
    answer = Answer(turn, "m", "seed", 7)
    assert [block["input"] for block in answer.message()["content"]] == [whole]  # type: ignore[index, union-attr, call-overload]  # JSON
    streamed = [frame["delta"]["partial_json"] for frame in answer.frames() if is_delta(frame)]  # type: ignore[index, call-overload]  # JSON
    assert "".join(streamed) == raw

"""Lent scripts answer those prompts that they were lent for, as long as somebody renews them."""

import pytest
from pydantic import JsonValue

from workbench.scripted_model import Script, ScriptError, Turn, script_of
from workbench.scripted_model.lending import MAX_LENT, Chosen, Lending


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def user(text: str) -> JsonValue:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def said(text: str) -> JsonValue:
    return {"role": "assistant", "content": text}


def result(text: str) -> JsonValue:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": text}]}


def words(chosen: Chosen | None) -> str:
    return "none" if chosen is None else "".join("".join(block.text) for block in chosen.turn.content)


def of(*texts: str) -> Script:
    return Script.of(*(Turn(text=text) for text in texts))


def test_two_people_at_once_do_not_meet() -> None:
    lending = Lending()
    one, other = (lending.lend(of(text), 20) for text in ("one", "other"))
    assert one != other
    for marker, text in ((other, "other"), (one, "one"), (other, "other")):
        assert words(lending.choose([user(f"hello [{marker}]")], marker, streams=True)) == text
    assert lending.choose([user("hello")], "somebody's", streams=True) is None
    assert lending.markers() == {one: 1, other: 2}


def test_turns_are_counted_from_the_prompt_with_the_marker() -> None:
    """So a session that is resumed gets the answers that were given for its resumption."""
    lending = Lending()
    first, second = lending.lend(of("a", "b"), 20), lending.lend(of("c", "d"), 20)
    talk = [user(first), said("a"), result(f"{second} in a tool's result"), said("b")]
    assert words(lending.choose(talk[:1], "s", streams=True)) == "a"
    assert words(lending.choose(talk[:3], "s", streams=True)) == "b"
    assert words(lending.choose([*talk, user(second)], "s", streams=True)) == "c"
    assert words(lending.choose([*talk, user(second), said("c"), result("x")], "s", streams=True)) == "d"
    with pytest.raises(ScriptError, match="turn 3 was asked for"):
        lending.choose([user(first), said("a"), result("x"), said("b"), result("x")], "s", streams=True)


def test_what_a_subagent_asks_belongs_to_its_session() -> None:
    lending = Lending()
    script = script_of(
        {"conversations": [{"when": "^look$", "turns": [{"text": "looked"}]}, {"turns": [{"text": "main"}]}]}
    )
    marker = lending.lend(script, 20)
    assert words(lending.choose([user(f"go {marker}")], "s", streams=True)) == "main"
    assert words(lending.choose([user("look")], "s", streams=True)) == "looked"
    assert lending.choose([user("look")], "another", streams=True) is None
    assert lending.choose([user("look")], "", streams=True) is None


def test_what_nobody_renews_is_gone_and_its_prompts_get_no_other_answer() -> None:
    clock = Clock()
    lending = Lending(clock)
    kept, left = lending.lend(of("kept"), 20), lending.lend(of("left"), 20)
    for clock.now in (15, 30):
        assert lending.renew(kept)
    assert (lending.renew(left), lending.get(left), lending.take_back(left)) == (False, None, None)
    assert words(lending.choose([user(kept)], "s", streams=True)) == "kept"
    with pytest.raises(ScriptError, match="in force no longer"):
        lending.choose([user(left)], "s", streams=True)


def test_what_was_taken_back_tells_what_it_has_answered() -> None:
    lending = Lending()
    marker = lending.lend(of("a"), 20)
    chosen = lending.choose([user(marker)], "s", streams=False)
    assert chosen is not None
    chosen.note.struck("status")
    taken = lending.take_back(marker)
    assert taken is not None
    assert [(one.turn, one.streams, one.told, one.fault) for one in taken.answered] == [(0, False, False, "status")]
    assert lending.markers() == {}


def test_no_more_are_lent_than_may_be() -> None:
    lending = Lending()
    for _ in range(MAX_LENT):
        lending.lend(of("a"), 20)
    with pytest.raises(ScriptError, match="which is the most"):
        lending.lend(of("a"), 20)

"""What readers see of a model that took words back: a broken stream that began again, a refused answer."""

from typing import Any

import pytest

from modal_app.contract.events import Event, StreamEvent
from workbench.cli.common import EventPrinter
from workbench.runs.claude_messages import standing, tail


def told(*pieces: tuple[str, str, str | None]) -> list[Event]:
    """Words, each with its block and the one that it stands in the place of."""
    stamp: dict[str, Any] = {"run_id": "r", "at_ms": 1, "elapsed_ms": 1, "channel": "claude"}
    return [
        StreamEvent(seq=seq, text=text, message_id=block, replaces=replaces, **stamp)
        for seq, (text, block, replaces) in enumerate(pieces, start=1)
    ]


CASES = {
    "a broken message": (told(("one ", "m1", None), ("one two", "m2", "m1")), "one two"),
    "a later block": (told(("one ", "m1", None), ("tw", "m1#2", None), ("two", "m2", "m1#2")), "one two"),
    "several blocks": (
        told(("a ", "m1", None), ("b ", "m1#1", None), ("c ", "m1#2", None), ("", "m2", "m1#1"), ("d", "m2", "m1#2")),
        "a d",
    ),
    "broken again": (told(("a", "m1", None), ("b", "m2", "m1"), ("c", "m3", "m2")), "c"),
    "nothing taken back": (told(("a ", "m1", None), ("b", "m1#1", None), ("c", "m2", None)), "a bc"),
}


@pytest.mark.parametrize(("events", "left"), CASES.values(), ids=CASES.keys())
def test_words_that_were_taken_back_are_left_out(events: list[Event], left: str) -> None:
    assert "".join(event.text for event in standing(events) if isinstance(event, StreamEvent)) == left
    assert tail(events) == left


def test_a_terminal_which_has_shown_them_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    show = EventPrinter(as_json=False)
    for event in told(("one ", "m1", None), ("one ", "m2", "m1"), ("two", "m2", "m1")):
        show(event)
    assert capsys.readouterr().out.splitlines() == [
        "            │ one ",
        "            │ ↻ the model begins again: this replaces what it said last",
        "            │ one two",
    ]

"""What a reader knows of a run after each event."""

from collections.abc import Sequence

import pytest

from modal_app.contract.events import DoneEvent, ErrorEvent, Event, StreamEvent, Usage
from workbench.runs.view_state import ViewState, reduce, usage_of
from workbench.scripted_model.frames import Answer
from workbench.scripted_model.script import Turn

USAGE = Usage(input_tokens=10, output_tokens=2, cost_usd=0.25, turns=1)
STAMP = {"run_id": "r", "at_ms": 0, "elapsed_ms": 0}


def scripted(seed: str) -> str:
    """The id of a message of the scripted model."""
    answer = Answer(Turn(text="hello"), model="claude-some", input_tokens=1, seed=seed)
    (start, *_) = answer.frames()
    message = start["message"]
    assert isinstance(message, dict)
    return str(message["id"])


def after(events: Sequence[Event]) -> ViewState:
    state = ViewState()
    for event in events:
        state = reduce(state, event)
    return state


def text(message_id: str) -> Event:
    return StreamEvent(**STAMP, seq=1, channel="claude", text="hello", message_id=f"{message_id}#0")


def whole(message_id: str) -> Event:
    message = {"type": "assistant", "message": {"id": message_id, "content": []}}
    return StreamEvent(**STAMP, seq=1, channel="claude", message=message)


DONE = DoneEvent(**STAMP, seq=2, usage=USAGE)
FAILED = ErrorEvent(**STAMP, seq=2, code="model_error", message="no", recoverable=False, usage=USAGE)


@pytest.mark.parametrize("end", [DONE, FAILED])
@pytest.mark.parametrize("said", [text, whole])
def test_the_scripted_model_says_that_it_is_one_where_a_price_is_told(said, end: Event) -> None:  # type: ignore[no-untyped-def]
    state = after([said(scripted("a seed")), end])
    assert state.scripted
    assert usage_of(state) == "10 tokens in, 2 out, $0.2500, 1 turns (scripted model: nothing was spent)"
    state = after([said("msg_01XFDUDYJgAACzvnptvVoYEL"), end])
    assert not state.scripted
    assert usage_of(state) == "10 tokens in, 2 out, $0.2500, 1 turns"


def test_a_run_without_a_model_has_no_price() -> None:
    assert usage_of(after([StreamEvent(**STAMP, seq=1, channel="stdout", text="msg_scripted_")])) == ""
    assert usage_of(after([text(scripted("another"))])) == "scripted model"

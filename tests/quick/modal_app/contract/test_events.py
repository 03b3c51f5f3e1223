"""Events: their JSON, their frames, their order."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from modal_app.contract import sse
from modal_app.contract.caps import MAX_STREAM_TEXT_BYTES
from modal_app.contract.errors import ERRORS, ErrorCode
from modal_app.contract.events import (
    Commit,
    DoneEvent,
    ErrorEvent,
    Event,
    ModelRetry,
    Phase,
    SandboxFacts,
    StatusEvent,
    StreamEvent,
    UnknownEventError,
    Usage,
    dump_event,
    parse_event,
)
from modal_app.contract.order import Order, OrderError


def status(seq: int, phase: Phase) -> StatusEvent:
    return StatusEvent(run_id="r", seq=seq, at_ms=1, elapsed_ms=seq, phase=phase, message="m")


def stream(seq: int, text: str = "x") -> StreamEvent:
    return StreamEvent(run_id="r", seq=seq, at_ms=1, elapsed_ms=seq, channel="stdout", text=text)


def done(seq: int) -> DoneEvent:
    facts = SandboxFacts(id="sb-1", uid=1000, terminated=True)
    commit = Commit(committed=True, elapsed_ms=3)
    usage = Usage(input_tokens=3, cost_usd=0.25, turns=2)
    return DoneEvent(
        run_id="r", seq=seq, at_ms=1, elapsed_ms=seq, result={"a": [1]}, usage=usage, commit=commit, sandbox=facts
    )


def error(seq: int) -> ErrorEvent:
    return ErrorEvent(
        run_id="r", seq=seq, at_ms=1, elapsed_ms=seq, code=ErrorCode.CANCELLED, message="m", recoverable=True
    )


PHASES = [
    Phase.ACCEPTED,
    Phase.SANDBOX_STARTING,
    Phase.SANDBOX_READY,
    Phase.RUNNING,
    Phase.COMMITTING,
    Phase.TERMINATING,
]


def a_run() -> list[Event]:
    events: list[Event] = [status(number + 1, phase) for number, phase in enumerate(PHASES[:4])]
    events += [stream(5), status(6, Phase.COMMITTING), status(7, Phase.TERMINATING), done(8)]
    return events


def message(seq: int) -> StreamEvent:
    line: dict[str, JsonValue] = {"type": "user", "parent_tool_use_id": None, "n": [{"b": None}]}
    return StreamEvent(run_id="r", seq=seq, at_ms=1, elapsed_ms=seq, channel="claude", message=line, replaces="m1")


@pytest.mark.parametrize(
    "event", [status(1, Phase.ACCEPTED), stream(2, "a\n\r\u2028\0é"), message(2), done(3), error(4)]
)
def test_an_event_survives_the_wire(event: Event) -> None:
    text = dump_event(event)
    assert "\n" not in text
    assert parse_event(text) == event
    assert json.loads(text)["type"] == event.type


def test_a_frame_has_id_type_and_one_line_of_data() -> None:
    """Clients that read only `data:` lines find the type in the data."""
    lines = sse.frame(stream(7, "a\n\nb")).decode().split("\n")
    assert lines[0] == "id: 7"
    assert lines[1] == "event: stream"
    assert json.loads(lines[2].removeprefix("data: "))["text"] == "a\n\nb"
    assert lines[3:] == ["", ""]


@pytest.mark.parametrize("data", ["", "{}", "[]", '{"type":"status"}', '{"type":"new","run_id":"r","seq":1}'])
def test_what_is_no_event_is_refused(data: str) -> None:
    with pytest.raises(UnknownEventError):
        parse_event(data)


def test_a_newer_endpoint_may_say_more() -> None:
    data = json.loads(dump_event(done(1))) | {"novelty": 1}
    assert parse_event(json.dumps(data)) == done(1)


def test_done_is_never_said_with_another_exit_code() -> None:
    data = json.loads(dump_event(done(1))) | {"exit_code": 1}
    with pytest.raises(UnknownEventError):
        parse_event(json.dumps(data))


def test_a_whole_run_is_in_order() -> None:
    order = Order()
    for event in a_run():
        order.check(event)
    assert order.ended


def test_a_run_without_a_sandbox_is_in_order() -> None:
    order = Order()
    for event in (status(1, Phase.ACCEPTED), status(2, Phase.RUNNING), done(3)):
        order.check(event)


@pytest.mark.parametrize("position", range(8))
def test_an_error_may_end_a_run_at_any_point_after_its_first_status(position: int) -> None:
    order = Order()
    for event in a_run()[:position]:
        order.check(event)
    if position == 0:
        with pytest.raises(OrderError):
            order.check(error(1))
    else:
        order.check(error(position + 1))
        assert order.ended


def again(seq: int, phase: Phase = Phase.RUNNING) -> StatusEvent:
    """That the model is asked again."""
    return status(seq, phase).model_copy(update={"retry": ModelRetry(attempt=1, most=2, wait_ms=5, status=429)})


def test_the_model_may_be_asked_again_while_the_job_runs() -> None:
    order = Order()
    for event in a_run()[:4]:
        order.check(event)
    for seq in (5, 6):
        order.check(again(seq))
    order.check(stream(7))
    assert order.phase == Phase.RUNNING


def test_what_a_running_job_waits_for_may_be_told_again_and_again() -> None:
    order = Order()
    for event in a_run()[:4]:
        order.check(event)
    for event in (status(5, Phase.RUNNING), stream(6), status(7, Phase.RUNNING), status(8, Phase.RUNNING), stream(9)):
        order.check(event)
    assert order.phase == Phase.RUNNING


@pytest.mark.parametrize(
    ("before", "event"),
    [
        (0, stream(1)),
        (0, status(1, Phase.RUNNING)),
        (1, status(3, Phase.SANDBOX_STARTING)),
        (1, status(1, Phase.SANDBOX_STARTING)),
        (2, stream(3)),
        (3, done(4)),
        (4, status(5, Phase.ACCEPTED)),
        (6, done(7)),
        (7, stream(8)),
        (8, done(9)),
        (8, error(9)),
        (2, status(3, Phase.SANDBOX_STARTING)),
        (6, status(7, Phase.RUNNING)),
        (7, status(8, Phase.RUNNING)),
        (3, again(4)),
        (6, again(7)),
        (4, again(5, Phase.COMMITTING)),
        (4, stream(5).model_copy(update={"run_id": "other"})),
        (4, stream(5).model_copy(update={"elapsed_ms": 0})),
    ],
)
def test_an_event_out_of_order_is_refused_and_changes_nothing(before: int, event: Event) -> None:
    order = Order()
    for earlier in a_run()[:before]:
        order.check(earlier)
    with pytest.raises(OrderError):
        order.check(event)
    for later in a_run()[before:]:
        order.check(later)
    assert order.ended


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_output_comes_through_whatever_the_cuts(chunks: list[bytes]) -> None:
    """Cuts inside a character lose nothing; what is not UTF-8 becomes U+FFFD as in one piece."""
    splitter = sse.TextSplitter()
    pieces = [text for chunk in chunks for text in splitter.feed(chunk)] + splitter.flush()
    assert "".join(pieces) == b"".join(chunks).decode(errors="replace")


@pytest.mark.parametrize("character", ["a", "é", "語", "😀"])
def test_a_text_fits_an_event(character: str) -> None:
    text = character * 200_000
    pieces = sse.TextSplitter().feed(text.encode())
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= MAX_STREAM_TEXT_BYTES for piece in pieces)


def test_every_code_has_a_row() -> None:
    assert set(ERRORS) == set(ErrorCode)
    assert all(400 <= info.status <= 599 and info.meaning for info in ERRORS.values())

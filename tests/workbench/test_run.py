"""A run as notebooks hold it."""

import time

import pytest
from pydantic import SecretStr

from modal_app.contract import sse
from modal_app.contract.events import Event, StreamEvent
from tests.conftest import wait_until
from tests.workbench.test_client import EVENTS, HEAD, WHOLE, chunk, serving
from workbench import Endpoint, Project, RequestRefusedError, StreamLostError, Workbench
from workbench import run as runs
from workbench.timeline import timeline
from workbench.view_state import ViewState, reduce


def test_launching_never_blocks_and_nobody_there_is_told_on_waiting() -> None:
    with Workbench.of(Endpoint(url="http://127.0.0.1:1", secret=SecretStr("s"))) as wb:
        started = time.monotonic()
        run = wb.launch(Project.new(), "python", code="1")
        assert time.monotonic() - started < 5
        with pytest.raises(RequestRefusedError):
            run.wait(30)
        assert run.state.condition == "lost"
        assert run.terminal is None


def test_events_state_and_text_are_kept() -> None:
    with serving(WHOLE) as endpoint, Workbench.of(endpoint) as wb:
        run = wb.launch(Project.new(), "python", code="1")
        assert list(run.follow(30)) == EVENTS
        assert run.text() == "héllo\n\nworld"
        assert (run.state.condition, run.state.exit_code, run.state.bytes["stdout"]) == ("done", 0, 13)
        assert list(run.follow(0)) == EVENTS


def test_a_lost_stream_is_raised_to_whoever_waits_or_follows() -> None:
    with serving(WHOLE[:4]) as endpoint, Workbench.of(endpoint) as wb:
        run = wb.launch(Project.new(), "python", code="1")
        with pytest.raises(StreamLostError):
            list(run.follow(30))
        with pytest.raises(StreamLostError):
            run.wait(0)
        assert run.events == tuple(EVENTS[:2])


def test_waiting_has_a_deadline_and_the_run_goes_on() -> None:
    with serving(WHOLE[:4], stall=True) as endpoint, Workbench.of(endpoint) as wb:
        run = wb.launch(Project.new(), "python", code="1")
        with pytest.raises(TimeoutError):
            run.wait(0.3)
        wait_until(lambda: len(run.events) == 2, "the events did not come")
        assert run.state.condition == "running"


def test_memory_is_bounded_and_what_was_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_KEPT", 10)
    output = [
        StreamEvent(run_id="r", seq=seq, at_ms=1, elapsed_ms=seq, channel="stdout", text=f"{seq} ")
        for seq in range(3, 103)
    ]
    many = [*EVENTS[:2], *output, EVENTS[3].model_copy(update={"seq": 103, "elapsed_ms": 103})]
    frames = [HEAD, *(chunk(sse.frame(event)) for event in many), chunk(b"")]
    with serving(frames) as endpoint, Workbench.of(endpoint) as wb:
        run = wb.launch(Project.new(), "python", code="1")
        run.wait(30)
        assert run.dropped == 90
        assert run.text() == "".join(f"{seq} " for seq in range(93, 103))
        assert run.state.events == 103
        assert run.events[0] == EVENTS[0]


def test_the_html_shows_guest_text_as_text() -> None:
    """A job's output ends up in a page: it must never become part of it."""
    evil: list[Event] = [
        *EVENTS[:2],
        EVENTS[2].model_copy(update={"text": "<script>alert(1)</script>&amp;"}),
        EVENTS[3],
    ]
    frames = [HEAD, *(chunk(sse.frame(event)) for event in evil), chunk(b"")]
    with serving(frames) as endpoint, Workbench.of(endpoint) as wb:
        run = wb.launch(Project.new(), "python", code="1")
        run.wait(30)
        page = run._repr_mimebundle_()["text/html"]
        assert "<script>" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;" in page


def test_a_closed_workbench_ends_its_runs_and_closes_twice() -> None:
    with serving(WHOLE[:4], stall=True) as endpoint:
        wb = Workbench.of(endpoint)
        run = wb.launch(Project.new(), "python", code="1")
        wait_until(lambda: len(run.events) == 2, "the events did not come")
        wb.close()
        wb.close()
        assert run.state.condition == "lost"


def test_the_state_is_a_function_of_the_events() -> None:
    state = ViewState()
    conditions = []
    for event in EVENTS:
        state = reduce(state, event)
        conditions.append(state.condition)
    assert conditions == ["running", "running", "running", "done"]
    assert state.events == 4


def test_the_timeline_covers_the_run_without_gaps() -> None:
    drawn = timeline(EVENTS)
    assert [(span.name, span.start_ms, span.end_ms) for span in drawn.spans] == [("accepted", 1, 2), ("running", 2, 4)]
    assert (drawn.first_output_ms, drawn.total_ms) == (3, 4)
    assert all(len(line) == len(drawn.lines()[0]) for line in drawn.lines())
    assert timeline([]).lines() == []

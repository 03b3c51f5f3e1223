"""A run as notebooks hold it."""

import time

import pytest
from pydantic import SecretStr

from modal_app.contract import sse
from modal_app.contract.events import DoneEvent, ErrorEvent, Event, Phase, StatusEvent, StreamEvent, Timings
from tests.conftest import wait_until
from tests.quick.workbench.test_client import EVENTS, HEAD, WHOLE, chunk, serving
from workbench import Endpoint, Project, RequestRefusedError, StreamLostError, Workbench
from workbench.runs import run as runs
from workbench.runs.timeline import timeline
from workbench.runs.view_state import ViewState, reduce


def test_launching_never_blocks_and_nobody_there_is_told_on_waiting() -> None:
    with Workbench.of(Endpoint(url="http://127.0.0.1:1", secret=SecretStr("s"))) as wb:
        started = time.monotonic()
        run = wb.launch(Project.new(), "python", code="1")
        assert time.monotonic() - started < 5
        with pytest.raises(RequestRefusedError):
            run.wait(30)
        assert run.state.condition == "refused"
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


def test_the_plain_text_drives_no_terminal() -> None:
    hostile = StreamEvent(
        run_id="r", seq=3, at_ms=1, elapsed_ms=3, channel="stdout", text="\x1b[2J\x1b]0;x\x07shown\r\n"
    )
    whole = [HEAD, *(chunk(sse.frame(event)) for event in (*EVENTS[:2], hostile, EVENTS[3])), chunk(b"")]
    with serving(whole) as endpoint, Workbench.of(endpoint) as wb:
        run = wb.launch(Project.new(), "python", code="1")
        run.wait(30)
        plain = run._repr_mimebundle_()["text/plain"]
        assert "shown" in plain
        assert not [character for character in plain if not character.isprintable() and character != "\n"]


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


def test_the_steps_stand_below_their_phases() -> None:
    """What the endpoint has measured is drawn where it began, from the events alone."""
    stamps = {"run_id": "r", "at_ms": 1}
    phases = (Phase.ACCEPTED, Phase.QUEUED, Phase.SANDBOX_STARTING, Phase.SANDBOX_READY, Phase.RUNNING)
    events: list[Event] = [
        StatusEvent(**stamps, seq=seq, elapsed_ms=100 * seq, phase=phase, message="m")
        for seq, phase in enumerate((*phases, Phase.COMMITTING, Phase.TERMINATING), start=1)
    ]
    known = Timings(container_start_ms=500, queue_ms=90, sandbox_create_ms=60, sandbox_ready_ms=30)
    events[3] = events[3].model_copy(update={"timings": Timings(sandbox_create_ms=60)})
    rest = {"first_byte_ms": 20, "run_ms": 80, "commit_ms": 70, "terminate_ms": 95}
    events.append(DoneEvent(**stamps, seq=8, elapsed_ms=800, timings=known.model_copy(update=rest)))
    drawn = timeline(events)
    assert [(step.name, step.phase, step.start_ms, step.end_ms) for step in drawn.steps] == [
        ("container start", None, -500, 0),
        ("queue", "queued", 200, 290),
        ("sandbox create", "sandbox_starting", 300, 360),
        ("sandbox ready", "sandbox_starting", 360, 390),
        ("first byte", "running", 500, 520),
        ("run", "running", 500, 580),
        ("commit", "committing", 600, 670),
        ("terminate", "terminating", 700, 795),
    ]
    lines = drawn.lines()
    names = [line[:17].rstrip() for line in lines]
    assert names[:3] == ["  container start", "accepted", "queued"]
    assert names[names.index("running") :][:3] == ["running", "  first byte", "  run"]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert timeline(events[:4]).steps[0].name == "sandbox create"


def test_a_run_that_waits_twice_has_one_step_for_it() -> None:
    """For its project, and then for its turn to start a sandbox."""
    stamps = {"run_id": "r", "at_ms": 1}
    phases = (Phase.ACCEPTED, Phase.QUEUED, Phase.QUEUED, Phase.SANDBOX_STARTING)
    events: list[Event] = [
        StatusEvent(**stamps, seq=seq, elapsed_ms=100 * seq, phase=phase, message="m")
        for seq, phase in enumerate(phases, start=1)
    ]
    events.append(ErrorEvent(**stamps, seq=5, elapsed_ms=900, code="internal", message="m", recoverable=True))
    events[4] = events[4].model_copy(update={"timings": Timings(queue_ms=190)})
    drawn = timeline(events)
    assert [(step.name, step.start_ms, step.end_ms) for step in drawn.steps] == [("queue", 200, 390)]
    names = [name for name, _ in drawn.rows()]
    assert names == ["accepted", "queued", "  queue", "queued", "sandbox_starting"]


def test_a_timeline_of_absurd_times_is_drawn_all_the_same() -> None:
    """An archive may say anything."""
    late = [EVENTS[0], EVENTS[1].model_copy(update={"elapsed_ms": 10**400})]
    assert len(timeline(late).lines()) == 2

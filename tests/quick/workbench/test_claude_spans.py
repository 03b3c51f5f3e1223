"""What the model, its tools and its sub-agents did is told from a job's events, whatever the events hold."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modal_app.contract.events import Event, Phase, StatusEvent, StreamEvent
from workbench.runs.claude_spans import MAX_SPANS, ClaudeSpan, claude_spans
from workbench.runs.timeline import timeline

REQUESTING = {"type": "system", "subtype": "status", "status": "requesting"}


def job(*lines: tuple[int, dict[str, Any]]) -> list[Event]:
    """The events of a job whose CLI printed these lines at these times, in milliseconds."""
    running = StatusEvent(run_id="r", seq=1, at_ms=0, elapsed_ms=0, phase=Phase.RUNNING, message="running")
    return [
        running,
        *(
            StreamEvent(run_id="r", seq=number, at_ms=at, elapsed_ms=at, channel="claude", message=line)
            for number, (at, line) in enumerate(lines, 2)
        ),
    ]


def begins(tokens: int = 10, parent: str | None = None) -> dict[str, Any]:
    """The model begins to answer."""
    message = {"usage": {"input_tokens": tokens, "cache_read_input_tokens": 5, "output_tokens": 1}}
    return {
        "type": "stream_event",
        "event": {"type": "message_start", "message": message},
        "parent_tool_use_id": parent,
    }


def ends(parent: str | None = None) -> dict[str, Any]:
    """The model has answered."""
    return {"type": "stream_event", "event": {"type": "message_stop"}, "parent_tool_use_id": parent}


def counts(tokens: int, parent: str | None = None) -> dict[str, Any]:
    """The model tells how much it has said."""
    event = {"type": "message_delta", "usage": {"output_tokens": tokens}}
    return {"type": "stream_event", "event": event, "parent_tool_use_id": parent}


def uses(name: str, use: str, parent: str | None = None, **given: str) -> dict[str, Any]:
    """The model uses a tool."""
    block = {"type": "tool_use", "id": use, "name": name, "input": given}
    return {"type": "assistant", "message": {"content": [block]}, "parent_tool_use_id": parent}


def answers(use: str, text: str, parent: str | None = None, *, error: bool = False) -> dict[str, Any]:
    """The tool has ended."""
    block = {"type": "tool_result", "tool_use_id": use, "content": text, "is_error": error}
    return {"type": "user", "message": {"content": [block]}, "parent_tool_use_id": parent}


def test_turns_begin_when_they_are_asked_for_and_tools_end_with_their_result() -> None:
    found = claude_spans(
        job(
            (100, REQUESTING),
            (400, begins(20)),
            (600, uses("Bash", "t1", command="make")),
            (620, counts(33)),
            (630, ends()),
            (900, answers("t1", "no rule\nmore", error=True)),
            (910, REQUESTING),
            (950, begins(30)),
            (990, ends()),
        )
    )
    assert found == (
        ClaudeSpan("turn 1", 100, 630, 0, "25 tokens in, 33 out"),
        ClaudeSpan("Bash make", 600, 900, 0, "no rule", failed=True),
        ClaudeSpan("turn 2", 910, 990, 0, "35 tokens in"),
    )


def test_what_a_sub_agent_does_is_deeper_and_two_at_once_are_kept_apart() -> None:
    found = claude_spans(
        job(
            (0, uses("Task", "a", description="look")),
            (1, uses("Task", "b", description="write")),
            (10, begins(parent="a")),
            (12, begins(parent="b")),
            (20, uses("Read", "r", "a", file_path="x")),
            (25, answers("r", "text", "a")),
            (30, ends("b")),
            (40, ends("a")),
            (50, answers("a", "found")),
            (60, answers("b", "written")),
        )
    )
    assert [(span.name, span.start_ms, span.end_ms, span.depth) for span in found] == [
        ("Task look", 0, 50, 0),
        ("Task write", 1, 60, 0),
        ("turn 1", 10, 40, 1),
        ("turn 2", 12, 30, 1),
        ("Read x", 20, 25, 1),
    ]
    names = [name for name, _ in timeline(job((0, uses("Task", "a")), (5, uses("Read", "r", "a")))).rows()]
    assert names == ["running", "  Task", "    Read"]


def test_an_answer_that_broke_off_ends_where_the_next_begins_and_what_never_ended_lasts() -> None:
    found = claude_spans(job((5, begins()), (50, begins()), (60, uses("Bash", "t")), (80, counts(3))))
    assert [(span.name, span.start_ms, span.end_ms, span.detail) for span in found] == [
        ("turn 1", 5, 50, "15 tokens in"),
        ("turn 2", 50, 80, "15 tokens in, 3 out"),
        ("Bash", 60, 80, "no end seen"),
    ]


def test_of_very_many_the_last_tells_how_many_more() -> None:
    found = claude_spans(job(*((n, uses("Bash", str(n))) for n in range(1000))))
    assert len(found) == MAX_SPANS
    assert found[-1].name == f"… {1001 - MAX_SPANS} more"
    assert found[-1].end_ms == 999


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["type", "message", "event", "content", "usage", "id", "tool_use_id", "name", "parent_tool_use_id"]
)
WORDS = st.sampled_from(
    ["stream_event", "message_start", "message_delta", "message_stop", "assistant", "user", "tool_use", "a"]
)
LINES = st.recursive(
    JSON | WORDS, lambda inner: st.dictionaries(NAMES, inner | st.lists(inner, max_size=3), max_size=5)
)


@settings(max_examples=60)
@given(st.lists(LINES.filter(lambda line: isinstance(line, dict)), max_size=6))
def test_whatever_the_lines_hold_nothing_breaks(lines: list[dict[str, Any]]) -> None:
    found = claude_spans(job(*enumerate(lines)))
    assert all(0 <= span.start_ms <= span.end_ms for span in found)
    assert all(one.isprintable() for span in found for one in span.name + span.detail)

"""The run view's Python side: batches, snapshots, ended runs, cancelling, what is shown without a kernel."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modal_app.contract import sse
from modal_app.contract.events import DoneEvent, Event, Phase, StatusEvent, StreamEvent
from tests.conftest import wait_until
from tests.quick.workbench.test_client import EVENTS, HEAD, WHOLE, chunk, serving
from tests.standard.browser.events import claude_run, hostile_run
from workbench import Project, RequestRefusedError, Workbench
from workbench.runs.run import Run
from workbench.widgets import RunView
from workbench.widgets import run_view as module
from workbench.widgets.run_view import drawn

WIDGETS = Path(module.__file__).parents[1]


class Heard(RunView):
    """A run view whose messages are kept, as a page gets them."""

    def __init__(self, run: Any) -> None:
        self.heard: list[tuple[bool, list[dict[str, Any]]]] = []
        super().__init__(run)

    def send(self, content: Any, buffers: Any = None) -> None:
        self.heard.append((content["reset"], json.loads(buffers[0])))

    def say(self, **content: Any) -> None:
        self._on_message(self, content, [])


def frames(events: list[Event]) -> list[bytes]:
    return [HEAD, chunk(b"".join(sse.frame(event) for event in events)), chunk(b"")]


@contextmanager
def viewing(pieces: list[bytes], *, stall: bool = False) -> Iterator[tuple[Run, Heard]]:
    with serving(pieces, stall=stall) as endpoint, Workbench.of(endpoint) as wb:
        run = wb.launch(Project.new(), "python", code="1")
        view = Heard(run)
        yield run, view
        view.close()


def test_events_travel_in_batches_and_none_is_lost() -> None:
    """Jupyter's server drops messages beyond 1,000 a second."""
    events: list[Event] = [
        StatusEvent(run_id="r", seq=1, at_ms=1, elapsed_ms=0, phase=Phase.ACCEPTED, message="m"),
        StatusEvent(run_id="r", seq=2, at_ms=1, elapsed_ms=0, phase=Phase.RUNNING, message="m"),
    ]
    events += [
        StreamEvent(run_id="r", seq=seq, at_ms=1, elapsed_ms=1, channel="stdout", text=f"{seq}\n")
        for seq in range(3, 2003)
    ]
    events.append(DoneEvent(run_id="r", seq=2003, at_ms=1, elapsed_ms=1))
    with viewing(frames(events)) as (run, view):
        run.wait(30)
        wait_until(lambda: view.condition == "done", "the view did not hear the end")
        assert len(view.heard) < 100
        live = [event["s"] for reset, batch in view.heard if not reset for event in batch]
        assert live == list(range(live[0], 2004))  # the run was launched before the view was there
        view.say(type="snapshot", ask=1)
        wait_until(lambda: view.heard[-1][0], "the page got no snapshot")
        assert [event["s"] for event in view.heard[-1][1]] == list(range(1, 2004))
        assert view.event_count == 2003


def test_a_page_opened_in_the_middle_gets_all_and_nothing_behind_it_twice() -> None:
    """Whatever was sent before its snapshot, it can leave out; whatever comes after, follows it without a gap."""
    with viewing(WHOLE[:4], stall=True) as (run, view):
        wait_until(lambda: len(run.events) == 2, "the events did not come")
        view.say(type="snapshot", ask=1)
        wait_until(lambda: any(reset for reset, _ in view.heard), "the page got no snapshot")
        first = next(index for index, (reset, _) in enumerate(view.heard) if reset)
        seqs = [event["s"] for _, batch in view.heard[first:] for event in batch]
        assert seqs == [1, 2]
        assert (view.condition, view.phase, view.pace) == ("running", "running", 1.0)


def test_what_a_new_page_gets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = {"run_id": "r", "at_ms": 1, "elapsed_ms": 1, "channel": "stdout"}
    events = [StreamEvent(**stamps, seq=seq, text="x" * 1000) for seq in range(1, 101)]
    assert drawn.newest(events) == events
    monkeypatch.setattr(drawn, "SNAPSHOT_EVENTS", 10)
    assert [event.seq for event in drawn.newest(events)] == list(range(91, 101))
    monkeypatch.setattr(drawn, "SNAPSHOT_CHARS", 5000)
    assert [event.seq for event in drawn.newest(events)] == list(range(96, 101))
    monkeypatch.setattr(drawn, "MESSAGE_BYTES", 3000)
    packed = [json.loads(data) for data in drawn.packed(events)]
    assert [record["s"] for batch in packed for record in batch] == list(range(1, 101))
    assert max(len(batch) for batch in packed) == 2


def test_a_page_without_a_kernel_shows_the_last_state() -> None:
    with viewing(WHOLE) as (run, view):
        run.wait(30)
        wait_until(lambda: view.proof_note not in ("", "checking …"), "no proof was looked for")
        data, _ = view._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in data
        assert "héllo" in data["text/html"]
        assert "done" in data["text/plain"]
        assert "an endpoint given by URL" in data["text/plain"]  # why there is no proof


def test_messages_that_nobody_sends_are_ignored() -> None:
    with viewing(WHOLE) as (run, view):
        for content in (
            None,
            [],
            {},
            {"type": "evil"},
            {"type": ["snapshot"]},
            {"type": "snapshot", "ask": "1"},
            "hello",
            3,
        ):
            view._on_message(view, content, [])
        run.wait(30)
        wait_until(lambda: view.condition == "done", "the view did not hear the end")
        assert view.problem == ""


def test_a_cancel_that_fails_is_told() -> None:
    """The page asked for it: it must hear that the run goes on."""
    with viewing(WHOLE[:4], stall=True) as (run, view):
        wait_until(lambda: view.condition == "running", "the run did not begin")
        run._client._http.base_url = "http://127.0.0.1:1"
        with pytest.raises(RequestRefusedError):
            run.cancel()
        view.say(type="cancel")
        wait_until(lambda: "cannot be reached" in view.problem, "the failure was not told")
        assert not view.cancelling


def test_claudes_messages_are_lines_that_unfold() -> None:
    records = [drawn.record(event) for event in claude_run()]
    lines = [(kind, line) for record in records for kind, line, _ in record.get("p", []) if record["c"] == "claude"]
    assert lines == [
        ("note", "session 58f02da3, model m-5"),
        ("end", ""),
        ("tool", "→ Write index.html"),
        ("result", "✓ File created: index.html"),
        ("end", ""),
        ("tool", "→ Bash curl x"),
        ("failure", "✗ This command requires approval"),
        ("end", ""),
    ]
    bodies = {line: body for record in records for _, line, body in record.get("p", [])}
    assert json.loads(bodies["→ Write index.html"])["content"].startswith("<!doctype html>")
    assert bodies["✓ File created: index.html"].endswith("</script>\n")
    assert [(record["m"], record["r"]) for record in records if record.get("r")] == [("m3", "m2"), ("m3", "m2")]


def test_hostile_output_stays_text_without_a_kernel() -> None:
    with viewing(frames(hostile_run())) as (run, view):
        run.wait(30)
        wait_until(lambda: view.condition == "error", "the view did not hear the end")
        for text in (view.still()["html"], view.still()["plain"]):
            assert "stolen" in text
            assert not [character for character in text if not character.isprintable() and character != "\n"]
        assert "<img" not in view.still()["html"]
        assert "<script" not in view.still()["html"]


def test_reconnecting_is_told() -> None:
    """Cut after two events, and nobody answers: the view says so while the client tries."""
    with viewing([*WHOLE[:4], chunk(b"")]) as (_, view):
        wait_until(lambda: view.reconnecting or view.condition == "lost", "the view did not hear of it")
        wait_until(lambda: view.condition == "lost", "it was never given up")
        view.look()
        wait_until(lambda: not view.reconnecting, "it goes on")
    assert len(EVENTS) == 4


def test_the_drawing_writes_guest_text_as_text_and_loads_nothing() -> None:
    """Neither HTML sinks nor addresses stand in the front-end's files."""
    for path in WIDGETS.rglob("*.js"):
        source = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", source), path
        assert not re.search(r"https?://|import\(|from\s+[\"']", source), path
    for path in WIDGETS.rglob("*.css"):
        assert not re.search(r"url\(|@import|https?://", path.read_text()), path

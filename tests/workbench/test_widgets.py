"""The widgets' Python side: batches, snapshots, fallbacks. The browser tests see them drawn."""

import json
import re
from pathlib import Path
from typing import Any

from modal_app.contract import sse
from modal_app.contract.events import DoneEvent, Event, Phase, StatusEvent, StreamEvent
from tests.conftest import wait_until
from tests.workbench.test_client import HEAD, WHOLE, chunk, serving
from workbench import Project, Workbench
from workbench.widgets import RunView, VolumeBrowser
from workbench.widgets import run_view as module

WIDGETS = Path(module.__file__).parents[1]


class Heard(RunView):
    """A run view whose messages are kept."""

    def __init__(self, run: Any) -> None:
        self.heard: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
        super().__init__(run)

    def send(self, content: Any, buffers: Any = None) -> None:
        self.heard.append((content, json.loads(buffers[0])))


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
    frames = b"".join(sse.frame(event) for event in events)
    with serving([HEAD, chunk(frames), chunk(b"")]) as endpoint, Workbench.of(endpoint) as wb:
        view = Heard(wb.launch(Project.new(), "python", code="1"))
        view.run.wait(30)
        wait_until(lambda: view.condition == "done", "the view did not hear the end")
        view._on_message(view, {"type": "hello"}, [])
        assert len(view.heard) < 100
        live = [event["s"] for content, batch in view.heard if not content["reset"] for event in batch]
        assert live == sorted(set(live))
        content, snapshot = view.heard[-1]
        assert content["reset"]
        assert [event["s"] for event in snapshot] == list(range(1, 2004))
        assert view.event_count == 2003
        view.close()


def test_a_page_without_a_kernel_shows_the_last_state() -> None:
    with serving(WHOLE) as endpoint, Workbench.of(endpoint) as wb:
        run = wb.launch(Project.new(), "python", code="1")
        view = run.view()
        run.wait(30)
        bundle = view._repr_mimebundle_()
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        assert "application/vnd.jupyter.widget-view+json" in data
        assert "héllo" in data["text/html"]
        assert "done" in data["text/plain"]
        view.close()


def test_messages_that_nobody_sends_are_ignored() -> None:
    with serving(WHOLE) as endpoint, Workbench.of(endpoint) as wb:
        view = Heard(wb.launch(Project.new(), "python", code="1"))
        for content in (None, [], {}, {"type": "evil"}, {"type": ["hello"]}, "hello", 3):
            view._on_message(view, content, [])
        view.run.wait(30)
        view.close()


def test_the_browser_reads_what_is_committed_and_nothing_outside(wb: Workbench, project: Project) -> None:
    code = """
import os
os.mkdir('d'); open('d/a.txt', 'w').write('text'); open('raw', 'wb').write(bytes(1)); os.symlink('/etc/passwd', 'out')
"""
    assert wb.launch(project, "python", code=code).wait(60).type == "done"
    browser = VolumeBrowser(wb.volume(project))
    assert [(entry["path"], entry["kind"]) for entry in browser.entries] == [
        ("d", "directory"),
        ("d/a.txt", "file"),
        ("out", "link"),
        ("raw", "file"),
    ]
    assert browser.preview("d/a.txt")["text"] == "text"
    assert browser.preview("raw")["note"] == "not text"
    for path in ("out", "d", "../x", "/etc/passwd", "", "nothing"):
        preview = browser.preview(path)
        assert preview["text"] == ""
        assert preview["note"].startswith("no preview")
    browser.close()


def test_the_drawing_writes_guest_text_as_text_and_loads_nothing() -> None:
    """Neither HTML sinks nor addresses stand in the front-end's files."""
    for path in WIDGETS.rglob("*.js"):
        source = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", source), path
        assert not re.search(r"https?://|import\(|from\s+[\"']", source), path
    for path in WIDGETS.rglob("*.css"):
        assert not re.search(r"url\(|@import|https?://", path.read_text()), path

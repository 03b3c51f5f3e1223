"""The run view's Python side: batches, snapshots, ended runs, cancelling, what is shown without a kernel."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modal_app.contract import sse
from modal_app.contract.events import DoneEvent, ErrorEvent, Event, Phase, StatusEvent, StreamEvent
from tests.conftest import wait_until
from tests.quick.workbench.test_client import EVENTS, HEAD, WHOLE, chunk, serving
from tests.quick.workbench.test_recordings import BUNDLE_OF_RUN, RUN_ID
from tests.standard.browser.events import claude_run, hostile_run
from workbench import Project, RequestRefusedError, Workbench
from workbench.runs import run as runs
from workbench.runs.archived_run import ArchivedRun
from workbench.runs.output_index import OutputIndex
from workbench.runs.playback import Playback
from workbench.runs.run import Run
from workbench.widgets import RunView
from workbench.widgets import run_view as module
from workbench.widgets.run_view import drawn, paging

WIDGETS = Path(module.__file__).parents[1]


class Heard(RunView):
    """A run view whose messages are kept, as a page gets them: `heard` those that nobody asked for, and snapshots."""

    def __init__(self, run: Any) -> None:
        self.heard: list[tuple[dict[str, Any], list[list[Any]]]] = []
        self.answers: list[tuple[dict[str, Any], bytes]] = []
        super().__init__(run)

    def send(self, content: Any, buffers: Any = None) -> None:
        if content["type"] == "tail":
            self.heard.append((content, json.loads(buffers[0])))
        else:
            self.answers.append((content, buffers[0] if buffers else b""))

    def say(self, **content: Any) -> None:
        self._on_message(self, content, [])

    def ask(self, **question: Any) -> tuple[dict[str, Any], Any]:
        """Ask as a page does, again and again until the answer is whole; returns it with what its buffer has."""
        while True:
            self.answers.clear()
            self.say(ask=7, **question)
            wait_until(lambda: bool(self.answers), "the question was not answered")
            told, data = self.answers[-1]
            if told.get("whole", True):
                return told, json.loads(data) if told["type"] == "rows" else data.decode()


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
        live = [told for told, _ in view.heard]
        seqs = [seq for told in live for seq in range(told["first"], told["last"] + 1)]
        assert seqs == list(range(seqs[0], 2004))  # the run was launched before the view was there
        assert sum(told["events"] for told in live) == len(seqs)
        view.say(type="snapshot", ask=1)
        wait_until(lambda: view.heard[-1][0]["reset"], "the page got no snapshot")
        told, rows = view.heard[-1]
        assert (told["first"], told["last"], told["events"], told["total"]) == (1, 2003, 2003, 2003)
        assert [number for number, *_ in rows] == list(range(2003))
        _, older = view.ask(type="rows", hidden=[], wanted="", **{"from": 0}, count=3)
        assert [row[4] for row in older] == ["accepted: m", "running: m", "3"]
        assert view.event_count == 2003


def test_a_page_opened_in_the_middle_gets_all_and_nothing_behind_it_twice() -> None:
    """Whatever was sent before its snapshot, it can leave out; whatever comes after, follows it without a gap."""
    with viewing(WHOLE[:4], stall=True) as (run, view):
        wait_until(lambda: len(run.events) == 2, "the events did not come")
        view.say(type="snapshot", ask=1)
        wait_until(lambda: any(told["reset"] for told, _ in view.heard), "the page got no snapshot")
        first = next(index for index, (told, _) in enumerate(view.heard) if told["reset"])
        assert [(told["first"], told["last"]) for told, _ in view.heard[first:]] == [(1, 2)]
        assert [number for _, rows in view.heard[first:] for number, *_ in rows] == [0, 1]
        assert (view.condition, view.phase, view.pace) == ("running", "running", 1.0)


def test_what_a_page_gets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of rows and by their size, whatever it asks for; what was left out, it can ask for."""
    stamps = {"run_id": "r", "at_ms": 1, "elapsed_ms": 1, "channel": "stdout"}
    events: list[Event] = [StreamEvent(**stamps, seq=seq, text="x" * 1000 + "\n") for seq in range(1, 101)]
    monkeypatch.setattr(paging, "SNAPSHOT_ROWS", 10)
    view = Heard(Playback(events))
    view.run.seek(1)  # type: ignore[attr-defined]  # a playback
    view.restart()
    wait_until(lambda: bool(view.heard), "the page got no snapshot")
    assert [number for number, *_ in view.heard[-1][1]] == list(range(90, 100))
    monkeypatch.setattr(drawn, "MESSAGE_BYTES", 3000)
    view.restart()
    wait_until(lambda: len(view.heard) > 1, "the page got no snapshot")
    assert [number for number, *_ in view.heard[-1][1]] == [98, 99]
    told, rows = view.ask(type="rows", hidden=[], wanted="", **{"from": 5}, count=50)
    assert (told["from"], told["begin"], told["end"], [number for number, *_ in rows]) == (5, 0, 100, [5, 6])
    view.close()


def test_a_page_asks_for_rows_matches_bodies_and_copies() -> None:
    """Everything that there is, also what was never sent to it, and with the same filter for all."""
    view = Heard(Playback(claude_run()))
    view.run.seek(10_000)  # type: ignore[attr-defined]  # a playback
    plain: dict[str, Any] = {"hidden": [], "wanted": ""}
    told, rows = view.ask(type="rows", **plain, **{"from": -1}, count=4)
    assert [row[4] for row in rows][-1] == "done: exit code 0"
    assert told["alarms"]
    tool = next(
        number for number, _, kind, *_ in view.ask(type="rows", **plain, **{"from": 0}, count=50)[1] if kind == "tool"
    )
    _, body = view.ask(type="body", number=tool)
    assert json.loads(body)["file_path"] == "index.html"

    told, _ = view.ask(type="match", **plain, sought="CLOCK", number=-1, by=1)
    assert (told["at"], told["total"]) == (0, 3)
    assert view.ask(type="match", **plain, sought="clock", number=tool, by=1)[0]["number"] == tool + 1
    assert view.ask(type="match", **plain, sought="clock", number=tool, by=1, stay=True)[0]["number"] == tool
    assert view.ask(type="match", **plain, sought="clock", number=tool, by=-1)[0]["number"] == told["number"]
    assert view.ask(type="match", **plain, sought="clock", number=0, by=-1)[0]["at"] == 2  # round
    assert view.ask(type="match", **plain, sought="nowhere", number=0, by=1)[0]["place"] is None
    error = view.ask(type="match", **plain, sought=None, number=-1, by=1)[0]
    assert view.ask(type="rows", **plain, **{"from": error["place"]}, count=1)[1][0][2] == "failure"

    page = {"hidden": ["status"], "wanted": "page"}
    told, rows = view.ask(type="rows", **page, **{"from": 0}, count=50)
    assert told["end"] == len(rows) == 2
    assert [row[5] for row in rows] == [0, 0]
    told, text = view.ask(type="copy", **page, unfolded=[])
    assert text.splitlines() == ["I will write a small web page with a clock.", "The page is there."]
    assert (told["rows"], told["of"]) == (2, 2)
    told, text = view.ask(type="copy", **plain, unfolded=[tool])
    assert '  "file_path": "index.html",' in text.splitlines()
    view.close()


def alone(view: RunView, rows: list[list[Any]], *questions: dict[str, Any]) -> list[dict[str, Any]]:
    """What a page whose kernel has ended answers to questions, from these rows."""
    files = [WIDGETS / "run_view" / name for name in ("lines.js", "held.js", "output.js")]
    code = (
        "\n".join(file.read_text() for file in files)
        + """
        const { rows, questions } = JSON.parse(require("fs").readFileSync(0, "utf-8"));
        const lines = new Lines(() => {});
        lines.hold(rows);
        console.log(JSON.stringify(questions.map((one) => heldAnswer(lines, one)[0])));"""
    )
    given = json.dumps({"rows": rows, "questions": [{"reason": view.reason_line, **one} for one in questions]})
    done = subprocess.run(["node", "-e", code], input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


BEGINS = "Traceback (most recent call last):"
BROKE = "ValueError: it broke"
REASONS = {
    "the exception of the traceback": (f"a warning\n{BEGINS}\n  File 'job.py'\n{BROKE}\n", BROKE),
    "the last of two": (f"{BEGINS}\n  x\nKeyError: 'a'\n\nDuring handling:\n\n{BEGINS}\n  y\n{BROKE}\n", BROKE),
    "not what repeats its words": (f"{BROKE} (at once)\n{BEGINS}\n  {BROKE}\n{BROKE}\nsaid: {BROKE} indeed\n", BROKE),
    "what git says": ("hint: try this\nfatal: not a git repository\nusage: git\n", "fatal: not a git repository"),
    "a last line without a form": ("first\nsecond\n", "second"),
    "a coloured one": ("x\n\x1b[31mTypeError: no\x1b[0m\n", "TypeError: no"),
}


def failed(stderr: str) -> Heard:
    """The view of a run that has failed with this on stderr."""
    stamps = {"run_id": "r", "at_ms": 1, "elapsed_ms": 1}
    events: list[Event] = [
        StreamEvent(**stamps, seq=1, channel="stdout", text="out\nValueError: it broke\n"),
        StreamEvent(**stamps, seq=2, channel="stderr", text=stderr),
        StreamEvent(**stamps, seq=3, channel="stdout", text="out again\n"),
        ErrorEvent(**stamps, seq=4, code="process_failed", message="m", recoverable=False, exit_code=1),
    ]
    view = Heard(Playback(events))
    view.run.seek(10)  # type: ignore[attr-defined]  # a playback
    wait_until(lambda: view.condition == "error", "the run has not ended")
    return view


@pytest.mark.parametrize("name", REASONS)
def test_to_error_goes_to_the_line_of_the_reason(name: str) -> None:
    """Wherever else the same words stand, and whatever comes later; a second press goes on to how the run ended."""
    stderr, line = REASONS[name]
    view = failed(stderr)
    plain: dict[str, Any] = {"hidden": [], "wanted": ""}
    told, _ = view.ask(type="match", **plain, sought=None, number=-1, by=1)
    _, rows = view.ask(type="rows", **plain, **{"from": told["place"]}, count=1)
    assert line in rows[0][4]
    assert rows[0][1] == "stderr"
    assert view.reason.startswith(line)
    told, _ = view.ask(type="match", **plain, sought=None, number=told["number"], by=1)
    _, rows = view.ask(type="rows", **plain, **{"from": told["place"]}, count=1)
    assert rows[0][1] == "error"
    hidden: dict[str, Any] = {"hidden": ["stderr"], "wanted": ""}
    told, _ = view.ask(type="match", **hidden, sought=None, number=-1, by=1)
    assert view.ask(type="rows", **hidden, **{"from": told["place"]}, count=1)[1][0][1] == "error"
    view.close()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_without_a_kernel_to_error_goes_where_it_goes_with_one_or_says_what_is_not_there() -> None:
    """A page has only the rows that it was sent; a run's last lines may be thousands behind the reason of its end."""
    for stderr, _ in REASONS.values():
        view = failed(stderr)
        rows = view.ask(type="rows", hidden=[], wanted="", **{"from": 0}, count=50)[1]
        reason = view.ask(type="match", hidden=[], wanted="", sought=None, number=-1, by=1)[0]["number"]
        questions = [
            {"type": "match", "hidden": hidden, "wanted": wanted, "sought": None, "number": number, "by": by}
            for hidden, wanted in (([], ""), (["stdout"], ""), ([], "r"), (["stderr"], ""))
            for number, by in ((-1, 1), (reason, 1), (len(rows), 1), (len(rows), -1))
        ]
        found = alone(view, rows, *questions)
        for question, answer in zip(questions, found, strict=True):
            known = view.ask(**question)[0]
            assert (answer["number"], answer["place"]) == (known["number"], known["place"]), (stderr, question)
            assert answer["missing"] is False
        [lost] = alone(view, [row for row in rows if row[0] != reason and row[1] != "stderr"], questions[0])
        assert lost["missing"] is True
        assert rows[lost["number"]][1] == "error"
        view.close()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_without_a_kernel_nothing_is_missed_where_no_line_tells_the_reason() -> None:
    view = Heard(Playback(claude_run()))
    view.run.seek(10_000)  # type: ignore[attr-defined]  # a playback
    wait_until(lambda: view.condition == "done", "the run has not ended")
    question = {"type": "match", "hidden": [], "wanted": "", "sought": None, "number": -1, "by": 1}
    rows = view.ask(type="rows", hidden=[], wanted="", **{"from": 0}, count=50)[1]
    [answer, nothing] = alone(view, rows, question, question | {"wanted": "nowhere"})
    assert (answer["number"], answer["missing"]) == (view.ask(**question)[0]["number"], False)
    assert (nothing["number"], nothing["missing"]) == (None, False)
    view.close()


def test_a_live_run_is_read_from_its_first_line_though_its_events_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_KEPT", 10)
    stamps = {"run_id": "r", "at_ms": 1, "elapsed_ms": 1}
    events: list[Event] = [
        StatusEvent(**stamps, seq=1, phase=Phase.ACCEPTED, message="m"),
        StatusEvent(**stamps, seq=2, phase=Phase.RUNNING, message="m"),
    ]
    events += [StreamEvent(**stamps, seq=seq, channel="stdout", text=f"line {seq}\n") for seq in range(3, 5000)]
    events.append(DoneEvent(**stamps, seq=5000))
    with viewing(frames(events)) as (run, view):
        run.wait(30)
        assert run.dropped > 4000
        _, rows = view.ask(type="rows", hidden=[], wanted="", **{"from": 1}, count=2)
        assert [row[4] for row in rows] == ["running: m", "line 3"]
        told, _ = view.ask(type="match", hidden=[], wanted="", sought="LINE 3", number=4999, by=1)
        assert (told["number"], told["at"], told["total"]) == (2, 0, 1111)


def test_an_archived_run_is_read_to_its_first_line_and_forgotten_with_its_view() -> None:
    lines = "".join(f"line {number}\n" for number in range(50_000))
    stamps = {"run_id": RUN_ID, "at_ms": 1, "elapsed_ms": 1}
    events: list[Event] = [
        StatusEvent(**stamps, seq=1, phase=Phase.ACCEPTED, message="m"),
        StatusEvent(**stamps, seq=2, phase=Phase.RUNNING, message="m"),
        StreamEvent(**stamps, seq=3, channel="stdout", text=lines),
        StreamEvent(**stamps, seq=4, channel="stderr", text="Traceback\n"),
        StreamEvent(**stamps, seq=5, channel="stdout", text=lines),
    ]
    run = ArchivedRun(RUN_ID, BUNDLE_OF_RUN, b"".join(map(sse.frame, events)))
    view = Heard(run)
    told, rows = view.ask(type="rows", hidden=[], wanted="", **{"from": 2}, count=1)
    assert (told["end"], rows[0][4]) == (100_003, "line 0")
    assert view.ask(type="match", hidden=[], wanted="", sought=None, number=100_000, by=1)[0]["number"] == 50_002
    told, text = view.ask(type="copy", hidden=[], wanted="9999", unfolded=[])
    assert (told["rows"], told["of"], text.splitlines()[0]) == (10, 10, "line 9999")
    index = view.run.output
    view.close()
    assert index.first == index.total
    assert "line 49999" in view.still()["plain"]


def test_rows_that_the_model_took_back_are_told_as_such() -> None:
    view = Heard(Playback(claude_run()))
    view.run.seek(1_500)  # type: ignore[attr-defined]  # a playback
    view.say(type="snapshot", ask=1)
    wait_until(lambda: bool(view.heard), "the page got no snapshot")
    number = next(row[0] for row in view.heard[-1][1] if row[4] == "It tells the tim")
    view.run.play()  # type: ignore[attr-defined]
    view.run.set_speed(100)  # type: ignore[attr-defined]
    wait_until(lambda: bool(view.run.advance()) or view.run.state.ended, "it is not played")  # type: ignore[attr-defined]
    wait_until(lambda: [number, 1] in ([row[0], row[6]] for _, rows in view.heard for row in rows), "it was not told")
    view.close()


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
            {"type": "rows", "ask": 1},
            {"type": "rows", "ask": 1, "hidden": [], "wanted": "", "from": 0, "count": 10**9},
            {"type": "rows", "ask": 1, "hidden": [], "wanted": "", "from": -2, "count": 1},
            {"type": "rows", "ask": 1, "hidden": [], "wanted": "", "from": 10**30, "count": 1},
            {"type": "rows", "ask": 1, "hidden": ["everything"], "wanted": "", "from": 0, "count": 1},
            {"type": "rows", "ask": 1, "hidden": "stdout", "wanted": "", "from": 0, "count": 1},
            {"type": "rows", "ask": 1, "hidden": [[]], "wanted": "", "from": 0, "count": 1},
            {"type": "rows", "ask": 1, "hidden": [], "wanted": "x" * 10**6, "from": 0, "count": 1},
            {"type": "match", "ask": 1, "hidden": [], "wanted": "", "sought": "", "number": 0, "by": 1},
            {"type": "match", "ask": 1, "hidden": [], "wanted": "", "sought": 3, "number": 0, "by": 1},
            {"type": "match", "ask": 1, "hidden": [], "wanted": "", "sought": "x", "number": 0, "by": 2},
            {"type": "match", "ask": 1, "hidden": [], "wanted": None, "sought": "x", "number": 0, "by": 1},
            {"type": "body", "ask": 1, "number": "0"},
            {"type": "copy", "ask": 1, "hidden": [], "wanted": "", "unfolded": 3},
            "hello",
            3,
        ):
            view._on_message(view, content, [])
        run.wait(30)
        wait_until(lambda: view.condition == "done", "the view did not hear the end")
        assert view.problem == ""
        assert view.answers == []


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
    index = OutputIndex(claude_run())
    rows = [row for row in index.rows(range(index.total)) if row.channel == "claude"]
    assert [(row.kind, row.text) for row in rows] == [
        ("note", "session 58f02da3, asks for model m-5"),
        ("", "I will write a small web page with a clock."),
        ("tool", "→ Write index.html"),
        ("result", "✓ File created: index.html"),
        ("", "It tells the tim"),
        ("", "It tells the time in the browser's own zone."),
        ("tool", "→ Bash curl x"),
        ("failure", "✗ This command requires approval"),
        ("", "The page is there."),
    ]
    bodies = {row.text: row.body for row in rows}
    assert json.loads(bodies["→ Write index.html"])["content"].startswith("<!doctype html>")
    assert bodies["✓ File created: index.html"].endswith("</script>\n")
    assert [row.text for row in rows if row.withdrawn] == ["It tells the tim"]


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

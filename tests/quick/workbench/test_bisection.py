"""Bisecting names the first place at which two runs differ, in each channel, and nothing that is no difference."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modal_app.contract import sse
from modal_app.contract.errors import ErrorCode
from modal_app.contract.events import Commit, DoneEvent, ErrorEvent, Event, Phase, StatusEvent, StreamEvent
from modal_app.contract.proof import Bundle, EventFacts
from modal_app.runs.run_records import new_run_id
from tests.quick.workbench.test_recordings import RECORDING
from tests.support.commands import cli
from workbench import ArchivedRun, Bisection
from workbench.runs.bisection import NO_FILES, bisect
from workbench.runs.comparison import Comparison

Part = tuple[str, dict[str, Any]]
ACCEPTED: Part = ("status", {"phase": Phase.ACCEPTED, "message": "accepted"})
RUNNING: Part = ("status", {"phase": Phase.RUNNING, "message": "running"})
DONE: Part = ("done", {})


def out(text: str, channel: str = "stdout") -> Part:
    """The job prints."""
    return "stream", {"channel": channel, "text": text}


def tool(name: str, **given: str) -> Part:
    """The model uses a tool."""
    block = {"type": "tool_use", "name": name, "input": given}
    return "stream", {"channel": "claude", "message": {"type": "assistant", "message": {"content": [block]}}}


def run(*parts: Part, step_ms: int = 10, commit: Commit | None = None) -> ArchivedRun:
    """An archived run with an id of its own; `step_ms` between two events."""
    run_id = new_run_id()
    kinds: dict[str, Any] = {"status": StatusEvent, "stream": StreamEvent, "done": DoneEvent, "error": ErrorEvent}
    events: Sequence[Event] = [
        kinds[kind](run_id=run_id, seq=seq, at_ms=seq, elapsed_ms=(seq - 1) * step_ms, **fields)
        for seq, (kind, fields) in enumerate(parts, 1)
    ]
    stream = b"".join(map(sse.frame, events))
    facts = RECORDING.bundle.model_dump() | {
        "run_id": run_id,
        "commit": commit,
        "events": EventFacts(last_seq=len(events), bytes=len(stream), sha256=""),
    }
    return ArchivedRun(run_id, Bundle.model_validate(facts), stream)


def bisected(left: ArchivedRun, right: ArchivedRun) -> Bisection:
    """The two, as recordings are bisected."""
    return bisect(Comparison(left, right, files_problem=NO_FILES))


PLAIN = (ACCEPTED, RUNNING, out("one\ntwo\n"), DONE)
FAILED: Part = (
    "error",
    {"code": ErrorCode.PROCESS_FAILED, "message": "exit code 3", "recoverable": False, "exit_code": 3},
)
RETRY: Part = (
    "status",
    {"phase": Phase.RUNNING, "message": "again", "retry": {"attempt": 1, "most": 10, "wait_ms": 5, "status": 529}},
)


@pytest.mark.parametrize(
    "other",
    [
        PLAIN,
        (ACCEPTED, RUNNING, out("one"), out("\nt"), out("wo\n"), DONE),
        (ACCEPTED, RUNNING, out(""), out("one\n"), out("two\n"), DONE),
    ],
)
def test_ids_times_and_how_output_was_cut_are_no_difference(other: Sequence[Part]) -> None:
    found = bisected(run(*PLAIN), run(*other))
    assert not found.differs, repr(found)
    assert [one.channel for one in found.channels] == ["status", "stdout", "stderr", "claude", "end", "files", "timing"]


@pytest.mark.parametrize(
    ("other", "channel", "left", "right"),
    [
        ((ACCEPTED, RUNNING, RETRY, *PLAIN[2:]), "status", "", "the model is asked again"),
        ((ACCEPTED, RUNNING, out("one\ntwo?\n"), DONE), "stdout", "two", "two?"),
        ((ACCEPTED, RUNNING, out("one\n"), DONE), "stdout", "two", ""),
        ((*PLAIN[:3], out("oh", "stderr"), DONE), "stderr", "", "oh"),
        ((*PLAIN[:3], tool("Write", file_path="a"), DONE), "claude", "", "assistant/tool: → Write a"),
        ((*PLAIN[:3], FAILED), "end", "done", "error process_failed"),
        ((*PLAIN[:3], ("done", {"result": {"a": 1}})), "end", "result: None", "result: {'a': 1}"),
    ],
)
def test_the_first_difference_is_named_in_its_channel_alone(
    other: Sequence[Part], channel: str, left: str, right: str
) -> None:
    found = bisected(run(*PLAIN), run(*other))
    [one] = [one for one in found.channels if one.differs]
    assert one.channel == channel
    assert left in one.left
    assert right in one.right
    assert bool(one.left) == bool(left)


def test_two_uses_of_tools_differ_by_what_they_were_given() -> None:
    left, right = (run(ACCEPTED, RUNNING, tool("Read", file_path="x"), tool("Bash", command=c), DONE) for c in "ab")
    [one] = [one for one in bisected(left, right).channels if one.differs]
    assert (one.channel, one.where, one.left_seq, one.right_seq) == ("claude", "at 2", 4, 4)


def test_files_and_times_differ_by_what_is_known_of_them() -> None:
    def committed(count: int) -> ArchivedRun:
        return run(*PLAIN, commit=Commit(committed=True, elapsed_ms=1, changed=count))

    assert [one.channel for one in bisected(committed(1), committed(2)).channels if one.differs] == ["files"]
    slow, fast = run(*PLAIN, step_ms=2000), run(*PLAIN)
    assert [one.channel for one in bisected(slow, fast).channels if one.differs] == ["timing"]
    assert not bisect(Comparison(slow, fast, files_problem=NO_FILES), tolerance_ms=10_000).differs


def test_hostile_output_is_shown_on_one_printable_line() -> None:
    found = bisected(run(*PLAIN), run(ACCEPTED, RUNNING, out("\x1b[2J" + "x" * 100_000), DONE))
    assert all(line.isprintable() and len(line) < 1000 for line in found.lines())


def test_the_command_says_by_its_exit_code_whether_they_differ(tmp_path: Path) -> None:
    same, broken = tmp_path / "same.zip", tmp_path / "broken.zip"
    RECORDING.save(same)
    broken.write_bytes(b"PK")
    told = cli("runs", "bisect", str(same), str(same), "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["differs"] is False
    assert cli("runs", "bisect", str(same), str(broken)).returncode == 2, "1 would say that they differ"

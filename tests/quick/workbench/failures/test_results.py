"""A result is judged by what was seen, draws itself, and can be kept: as a file, and as a notebook that is a test."""

import json
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from workbench.cli import app
from workbench.deployment.targets import Target
from workbench.failures.catalogue import find
from workbench.failures.experiments import NotProvokedError
from workbench.failures.kept_notebook import NotebookExistsError, write
from workbench.failures.observation import End, Observation, Seen, SideName
from workbench.failures.results import FailureResult, FaultNeverFiredError
from workbench.failures.side_results import Fired, SideResult
from workbench.failures.sides import Hardened

BEGAN = 1_700_000_000.0


def observed(side: SideName, ended: End, code: str = "", text: str = "written\n", after_s: float = 0.0) -> Observation:
    return Observation(
        side=side,
        events=(Seen(at_s=0.2, what="text", text=text),),
        ended=ended,
        code=code,
        took_s=1.0,
        ended_at=BEGAN + after_s + 1,
    )


def side(name: SideName, seen: Observation, file: str | None, injected: int = 1) -> SideResult:
    return SideResult(
        side=name,
        before=observed(name, "done"),
        observations=(seen,),
        facts={"file": file},
        fired=(Fired(rule="at=commit lose=true", injected=injected, at=(BEGAN + 2.5,) * injected),),
    )


def result(
    naive: str | None = None,
    hardened: str | None = None,
    *,
    end: End = "error",
    code: str = "commit_failed",
    fired: int = 1,
) -> FailureResult:
    return FailureResult.of(
        find("commit-acknowledged-and-lost"),
        side("naive", observed("naive", "done", after_s=2), naive, fired),
        side("hardened", observed("hardened", end, code, after_s=2), hardened),
        began_at=BEGAN,
        took_s=4,
    )


def test_the_verdict_follows_from_what_was_seen() -> None:
    assert (result().verdict, result().shown) == ("told", True)
    assert (result(end="done").verdict, result(end="done").shown) == ("lied", False)
    other = result(code="internal")
    assert (other.verdict, other.said["hardened"]) == ("lied", "it said error internal, and not error commit_failed")
    assert result(hardened="kept").verdict == "lied"


def test_a_fault_that_never_fired_makes_it_invalid_and_says_where() -> None:
    unfired = result(fired=0)
    assert (unfired.status, unfired.verdict, unfired.shown) == ("invalid", None, False)
    with pytest.raises(FaultNeverFiredError, match="never fired at the naive endpoint: at=commit lose=true"):
        unfired.require()
    assert [badge.ok for badge in unfired.badges() if badge.name == "it happened to the naive one"] == [False]


def test_a_result_that_was_kept_is_judged_again_and_not_believed(tmp_path: Path) -> None:
    """The verdict in the file is not read: somebody may have written it there."""
    told = json.loads(result(end="done").model_dump_json()) | {"verdict": "told", "shown": True, "status": "completed"}
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(told))
    done = CliRunner().invoke(app, ["failures", "verify", str(path), "--json"])
    assert (done.exit_code, json.loads(done.output)["verdict"]) == (1, "lied")
    path.write_text(result().model_dump_json())
    assert CliRunner().invoke(app, ["failures", "verify", str(path)]).exit_code == 0
    path.write_text(result(fired=0).model_dump_json())
    assert CliRunner().invoke(app, ["failures", "verify", str(path)]).exit_code == 3
    for wrong in ("", "{}", "[1]", '{"name": "commit-fails"}'):
        path.write_text(wrong)
        assert CliRunner().invoke(app, ["failures", "verify", str(path)]).exit_code == 2
    assert CliRunner().invoke(app, ["failures", "verify", str(tmp_path / "none.json")]).exit_code == 2


def test_what_a_kept_result_leaves_out_makes_it_no_proof(tmp_path: Path) -> None:
    """A fault that never fired is seen again, and a file without what a verdict needs is none."""
    path = tmp_path / "kept.json"
    whole = json.loads(result().model_dump_json())
    silent = json.loads(result(fired=0).model_dump_json()) | {"why": ""}
    path.write_text(json.dumps(silent))
    assert CliRunner().invoke(app, ["failures", "verify", str(path)]).exit_code == 3
    for wrong in (
        {"naive": None},
        {"naive": None, "hardened": None},
        {"naive": whole["naive"] | {"observations": []}},
        {"hardened": whole["hardened"] | {"facts": {}}},
        {"name": "no-such-mode"},
    ):
        path.write_text(json.dumps(whole | wrong))
        done = CliRunner().invoke(app, ["failures", "verify", str(path)])
        assert (done.exit_code, "is no result of" in done.output) == (2, True), wrong


def test_it_draws_two_timelines_on_one_axis_with_the_fault_and_the_lie() -> None:
    drawn = result()._repr_mimebundle_()
    picture = drawn["text/html"]
    assert picture.count("<circle") == 4
    assert picture.count("<title>the fault</title>") == 2
    assert "said that it is done: not so" in picture
    assert "said error commit_failed" in picture
    assert "does not hold" not in picture
    assert "does not hold" in result(end="done")._repr_mimebundle_()["text/html"]
    assert drawn["text/plain"] == str(result())


def test_what_a_job_wrote_is_text_in_the_picture() -> None:
    hostile = "<script>alert(1)</script>\x1b[2J"
    drawn = result(end="error", code=hostile, naive=hostile)._repr_mimebundle_()
    assert "<script" not in drawn["text/html"]
    assert "\x1b" not in drawn["text/html"]
    assert "&lt;script&gt;" in drawn["text/html"]


def test_a_mode_is_kept_as_a_notebook_that_overwrites_nothing(tmp_path: Path) -> None:
    path = write(find("missing-commit"), tmp_path / "guard.ipynb")
    kept = nbformat.read(path, as_version=4)
    nbformat.validate(kept)
    assert next(cell.metadata.get("tags") for cell in kept.cells if cell.cell_type == "code") == ["parameters"]
    before = path.read_bytes()
    with pytest.raises(NotebookExistsError, match="exists already"):
        write(find("commit-fails"), path)
    assert path.read_bytes() == before
    assert write(find("missing-commit"), tmp_path / "again.ipynb").read_bytes() == before


def test_a_mode_that_nothing_brings_about_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.failures.experiments import EXPERIMENTS

    monkeypatch.delitem(EXPERIMENTS, "missing-commit")
    with pytest.raises(NotProvokedError):
        write(find("missing-commit"), tmp_path / "none.ipynb")
    assert list(tmp_path.iterdir()) == []


def test_what_an_endpoint_took_back_is_no_text_of_its_answer() -> None:
    """The CLI prints a broken answer twice; who names what is void has told one answer."""
    told = [("one two ", "m1", ""), ("one two ", "m2", "m1"), ("three", "m2", ""), (" and more", "m2#1", "")]
    events = tuple(Seen(at_s=1, what="text", text=text, block=block, replaces=void) for text, block, void in told)
    assert observed("hardened", "done").model_copy(update={"events": events}).text == "one two three and more"
    plain = tuple(Seen(at_s=1, what="text", text=text) for text, _, _ in told)
    assert observed("naive", "done").model_copy(update={"events": plain}).text == "one two one two three and more"


def test_the_hardened_endpoints_events_of_a_claude_job_are_understood() -> None:
    side = Hardened(Target("local", Path()))
    retry = {"type": "status", "phase": "running", "message": "m", "retry": {"attempt": 1, "most": 2, "wait_ms": 900}}
    assert side.seen(retry, 1.0) == Seen(at_s=1.0, what="retry", text="HTTP None, in 900 ms")
    words = {"type": "stream", "channel": "claude", "text": "hi", "message_id": "m", "replaces": "n"}
    assert side.seen(words, 1.0) == Seen(at_s=1.0, what="text", text="hi", block="m", replaces="n")
    assert side.seen({"type": "stream", "channel": "claude", "message": {"type": "user"}}, 1.0).what == "message"
    assert side.seen({"type": "stream", "channel": "stderr", "text": "x"}, 1.0).what == "stderr"
    assert side.ending({"type": "done", "result": {"text": "hi"}, "usage": {"session_id": "s"}}) == ("hi", "s")
    assert side.ending({"type": "done", "result": None}) == ("", "")
    assert side.ending({}) == ("", "")

"""Past runs: found, proved, opened, compared, exported; whatever an archive says is text."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modal_app.contract.events import StreamEvent
from tests.conftest import wait_until
from tests.support.questions import Page
from workbench import Project, Recording, Workbench, connect
from workbench.runs.archived_run import PandasMissingError
from workbench.runs.comparison import compare
from workbench.widgets import Launcher, RunsTable, WorkbenchPanel

CODE = """
for number in range(20): print('line', number)
open('same', 'w').write('same'); open('result', 'w').write('first')
"""


@pytest.fixture(scope="module")
def runs(wb: Workbench) -> list[str]:
    """The ids of two runs of one project that are done and differ, and of one that failed; archived, oldest first."""
    project = Project.new()
    other = CODE.replace("'line', number)", "'line', number if number != 9 else 'nine')").replace("first", "second")
    ids = []
    for code in (CODE, other + "open('own', 'w')", "raise SystemExit(3)"):
        run = wb.launch(project, "python", code=code)
        run.wait()
        wb.runs.get(run.run_id, wait_s=30)
        ids.append(run.run_id)
    return ids


@pytest.fixture
def page(wb: Workbench, runs: list[str]) -> Iterator[Page]:
    table = RunsTable(wb)
    assert table.settle(60)
    yield Page(table)
    table.close()


def test_the_newest_come_first_with_numbers_to_sort_by(page: Page, runs: list[str]) -> None:
    rows = {row["run_id"]: row for row in page.panel.rows}
    assert [run_id for run_id in rows if run_id in runs] == runs[::-1]
    assert [rows[run_id]["cells"][3] for run_id in runs] == ["done", "done", "process_failed"]
    assert all(rows[run_id]["at_ms"] > 0 and rows[run_id]["took_ms"] > 0 for run_id in runs)


def test_the_reason_of_a_failure_is_told_wherever_the_run_is(wb: Workbench) -> None:
    code = "import sys\nfor n in range(30): print('row', n)\ndef f(n): return f(n - 1) if n else 1 / 0\nf(4)"
    run = wb.launch(Project.new(), "python", code=code)
    end = run.wait()
    reason = "ZeroDivisionError: division by zero"
    assert end.message == "the program ended with exit code 1", "an error has nothing that the job printed"
    assert reason in repr(run)
    assert reason in run.view().still()["plain"]
    kept = wb.runs.get(run.run_id, wait_s=30)
    assert (kept.reason, kept.bundle.reason, kept.bundle.message) == (reason, reason, end.message)
    assert reason in repr(kept)
    assert all(check.ok for check in kept.checks())
    forged = replace(kept, bundle=kept.bundle.model_copy(update={"message": "nothing"}))
    assert [check.name for check in forged.checks() if not check.ok] == ["facts"]
    table = RunsTable(wb)
    assert table.settle(60)
    assert next(row["reason"] for row in table.rows if row["run_id"] == run.run_id) == reason
    assert reason in table.still()["plain"]
    table.close()


def test_a_run_that_goes_on_is_listed_and_watched_to_its_end(wb: Workbench, runs: list[str]) -> None:
    project = Project.new()
    run = wb.launch(project, "python", code="print('begun', flush=True); import time; time.sleep(90)")
    assert any(isinstance(event, StreamEvent) for event in run.follow())
    [live] = [one for one in wb.runs.live() if one.run_id == run.run_id]
    assert (live.action, live.project_id) == ("python", project.project_id)
    table = RunsTable(wb)
    assert table.settle(60)
    row = table.rows[0]
    assert (row["run_id"], row["live"], row["cells"][3]) == (run.run_id, True, "running")
    assert not any(one["live"] for one in table.rows if one["run_id"] in runs)
    table.show(run.run_id)
    wait_until(lambda: table.shown == run.run_id, "it was not opened")
    run.cancel()
    wait_until(lambda: any(one["cells"][3] == "cancelled" for one in table.rows), "its end was not seen")
    assert run.run_id not in [one.run_id for one in wb.runs.live()]
    other = RunsTable(wb, project=Project.new())
    assert other.settle(60)
    assert other.rows == []
    for one in (table, other):
        one.close()


def test_runs_are_data_for_other_tools(wb: Workbench, runs: list[str]) -> None:
    records = {one["run_id"]: one for one in wb.runs.list(limit=100).records()}
    failed = records[runs[2]]
    assert (failed["outcome"], failed["reason"]) == ("process_failed", "the program ended with exit code 3")
    assert records[runs[0]]["files_changed"] == 2
    assert all(one["took_s"] > one["run_s"] > 0 for one in records.values() if "run_s" in one)
    assert json.loads(json.dumps(records)) == records
    if importlib.util.find_spec("pandas") is None:
        with pytest.raises(PandasMissingError, match="records"):
            wb.runs.list().frame()
    else:
        assert set(wb.runs.list(limit=100).frame()["run_id"]) == set(records)


def test_a_run_is_asked_again_or_edited_first(wb: Workbench, runs: list[str]) -> None:
    panel = WorkbenchPanel(wb)
    table, launcher = panel.part("runs"), panel.part("launch")
    assert isinstance(launcher, Launcher)
    assert table.can_ask
    table.handle({"type": "edit", "run_id": runs[2]}, [])
    wait_until(lambda: launcher.draft["values"].get("code") == "raise SystemExit(3)", "the form was not filled in")
    assert (panel.chosen, launcher.runs, launcher.errors) == ("launch", [], {})
    table.handle({"type": "again", "run_id": runs[2]}, [])
    wait_until(lambda: len(launcher.runs) == 1, "it was not launched")
    assert launcher.runs[0].wait().exit_code == 3
    assert launcher.view is not None
    assert launcher.view.input == "action: python\ncode: raise SystemExit(3)"
    assert launcher.view.input in launcher.view.still()["plain"] + launcher.view.still()["html"]
    table.handle({"type": "again", "run_id": "../x"}, [])
    wait_until(lambda: "canonical" in table.problem, "it was not told")
    panel.close()


def test_what_is_read_can_be_narrowed(wb: Workbench, runs: list[str]) -> None:
    failed = RunsTable(wb, outcome="process_failed")
    assert failed.settle(60)
    assert {row["cells"][3] for row in failed.rows} == {"process_failed"}
    failed.close()
    table = RunsTable(wb, limit=1)
    assert table.settle(60)
    assert (len(table.rows), table.complete) == (1, False)
    table.handle({"type": "more"}, [])
    wait_until(lambda: len(table.rows) == 2, "no more was read")
    table.close()


def test_a_run_is_proved_and_exported(page: Page, runs: list[str], tmp_path: Path) -> None:
    checks = page.ask("verify", run_id=runs[0])[0]["checks"]
    assert checks
    assert all(check["ok"] for check in checks)
    answer, (data,) = page.ask("export", run_id=runs[0])
    assert answer["name"] == f"run-{runs[0]}.zip"
    (tmp_path / "run.zip").write_bytes(data)
    assert Recording.load(tmp_path / "run.zip").run_id == runs[0]
    for what in ("verify", "export", "compare"):
        assert "canonical" in page.refused(what, run_id="../../x", left="../../x")


def test_a_run_is_opened_and_another_takes_its_place(page: Page, runs: list[str]) -> None:
    assert isinstance(page.panel, RunsTable)
    page.panel.show(runs[0])
    assert page.panel.settle(60)
    first = page.panel.view
    assert first.startswith("anywidget:")
    assert "line 19" in page.panel.still()["plain"]
    page.says(type="show", run_id=runs[2])
    wait_until(lambda: page.panel.shown == runs[2], "the other was not opened")
    assert page.panel.view not in ("", first)
    page.says(type="show", run_id="nothing")
    wait_until(lambda: "canonical" in page.panel.problem, "it was not told")
    page.says(type="show", run_id="")
    wait_until(lambda: page.panel.view == "", "it was not closed")


def test_two_runs_are_told_apart(wb: Workbench, runs: list[str], page: Page) -> None:
    assert isinstance(page.panel, RunsTable)
    found = page.panel.compare(runs[0], runs[1])
    differences = [(row.name, row.left, row.right) for row in found.events() if row.verdict != "same"]
    assert differences == [("stdout", "line 9", "line nine")]
    assert any("equal lines" in row.name for row in found.events())
    assert {row.name: row.verdict for row in found.files()} == {
        "own": "right only",
        "result": "differs",
        "same": "left only",  # the second run wrote the same bytes, which is no change
    }
    assert found.differs
    same = compare(wb.runs.get(runs[0]), wb.runs.get(runs[0]), wb.volume)
    assert not same.differs
    steps = {row.name: row for row in found.timeline()}
    assert {"running", "committing", "total"} <= set(steps)
    assert "line nine" in found._repr_mimebundle_()["text/html"]
    answer, _ = page.ask("compare", left=runs[0], right=runs[1])
    assert set(answer["parts"]) == {"facts", "timeline", "events", "files"}


def test_a_reader_without_a_kernel_sees_the_runs(page: Page, runs: list[str]) -> None:
    data = page.panel._repr_mimebundle_()[0]
    assert all(run_id in data["text/html"] and run_id in data["text/plain"] for run_id in runs)


def test_nothing_deployed_is_told(wb: Workbench) -> None:
    with connect("local", app_name="never-deployed") as own:
        table = RunsTable(own)
        assert table.settle(60)
        assert table.condition == "error"
        assert "run `workbench deploy`" in table.still()["plain"]
        table.close()

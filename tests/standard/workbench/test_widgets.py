"""The run view of runs that have ended: what is shown is what the archive holds."""

from tests.conftest import wait_until
from workbench import Project, Workbench


def test_an_archived_run_is_shown_with_its_proof(wb: Workbench, project: Project) -> None:
    run = wb.launch(project, "python", code="import sys; print('out'); print('err', file=sys.stderr)")
    assert run.wait(60).type == "done"
    live, ended = run.view(), wb.runs.get(run.run_id, wait_s=60).view()
    for view in (live, ended):
        wait_until(lambda view=view: bool(view.proof), "the proof was not shown")
        assert all(check["ok"] for check in view.proof), view.proof
        assert (view.condition, view.exit_code, view.run_id, view.pace) == ("done", 0, run.run_id, 0.0)
        assert view.sizes == {"stdout": 4, "stderr": 4, "claude": 0}
        assert {"running", "sandbox create", "terminate"} <= {span["name"] for span in view.spans}
        assert "✓ exit_code" in view.still()["plain"]
    assert ended.spans == live.spans
    assert not ended.can_cancel
    live.close()
    ended.close()


def test_an_archive_that_does_not_tell_the_end_is_shown_as_lost(wb: Workbench, project: Project) -> None:
    run = wb.launch(project, "python", code="1")
    run.wait(60)
    kept = wb.runs.get(run.run_id, wait_s=60)
    torn = type(kept)(kept.run_id, kept.bundle, kept.stream[: kept.stream.index(b"\n\nid: 3") + 2])
    view = torn.view()
    assert (view.condition, view.code, view.event_count) == ("lost", "unreadable", 2)
    wait_until(lambda: any(not check["ok"] for check in view.proof), "the proof holds")
    view.close()

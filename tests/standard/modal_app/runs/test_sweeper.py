"""What nobody owns is found and ended; what somebody owns is let be."""

import time

import modal
import pytest

from modal_app.contract.events import ErrorEvent
from modal_app.sandboxes.fleet import RUN_TAG, project_name, sub_path
from tests.conftest import live_sandboxes, wait_until
from workbench import Project, RequestRefusedError, Workbench

APP = "endpoint-tests"
pytestmark = pytest.mark.timeout(240)


def sweep() -> dict[str, int]:
    """Have the deployed function look once, as its schedule does."""
    found: dict[str, int] = modal.Function.from_name(APP, "sweep").remote()
    return found


def stray(project: Project, run_id: str) -> str:
    """A sandbox as the endpoint makes them, of a run that nobody executes."""
    volume = modal.Volume.from_name(f"{APP}-projects")
    sandbox = modal.Sandbox.create(
        "sleep",
        "600",
        app=modal.App.lookup(APP),
        name=project_name(project.user_id, project.project_id),
        tags={RUN_TAG: run_id},
        image=modal.Image.debian_slim().apt_install("git"),
        volumes={"/workspace": volume.with_mount_options(sub_path=sub_path(project.user_id, project.project_id))},
    )
    return str(sandbox.object_id)


def test_a_sandbox_of_a_run_that_has_ended_is_ended_and_a_live_one_is_not(wb: Workbench, project: Project) -> None:
    ended = wb.launch(project, "python", code="print(1)")
    ended.wait(60)
    live = wb.launch(Project.new(), "python", code="import time; time.sleep(600)")
    wait_until(lambda: live.state.phase == "running", "the run did not start")
    left = stray(project, ended.run_id)
    time.sleep(1)
    sweep()
    assert left in live_sandboxes()  # its owner has a while to do it by itself
    deadline = time.monotonic() + 90
    while left in live_sandboxes():
        assert time.monotonic() < deadline, "the sandbox is never swept"
        sweep()
        time.sleep(2)
    assert live.state.condition == "running"
    assert len(live_sandboxes()) == 1
    live.cancel()


def test_a_sandbox_that_is_not_of_a_run_is_not_touched(wb: Workbench) -> None:
    sandbox = modal.Sandbox.create("sleep", "600", app=modal.App.lookup(APP), image=modal.Image.debian_slim())
    sweep()
    assert live_sandboxes() == [sandbox.object_id]
    sandbox.terminate(wait=True)


def test_the_next_run_of_a_project_is_not_held_up_by_what_a_dead_one_has_left(wb: Workbench, project: Project) -> None:
    """The platform refuses a second sandbox of the same name, so the dead run's makes way."""
    left = stray(project, "01a20000-0000-7000-8000-000000000000")
    assert wb.launch(project, "python", code="print(1)").wait(60).type == "done"
    assert left not in live_sandboxes()


def test_sandboxes_that_do_not_start_are_not_asked_for_again_and_again(wb: Workbench, project: Project) -> None:
    with wb.faults.injected(at="call", rpc="SandboxCreate*", status="FAILED_PRECONDITION"):
        for _ in range(3):
            end = wb.launch(project, "python", code="print(1)").wait(60)
            assert isinstance(end, ErrorEvent)
            assert end.code == "sandbox_unavailable"
        with pytest.raises(RequestRefusedError, match="3 times in a row") as refused:
            wb.launch(project, "python", code="print(1)").wait(60)
        assert (refused.value.status, refused.value.code) == (503, "sandbox_unavailable")
    assert wb.launch(Project.new(), "python", code="print(1)").wait(60).type == "done"  # it is this project's alone
    assert wb.launch(project, "files", op="list").wait(60).type == "done"  # what needs no sandbox is not held up
    wait_until(lambda: _is_let_in(wb, project), "the project is never let in again")
    assert wb.launch(project, "python", code="print(1)").wait(60).type == "done"


def _is_let_in(wb: Workbench, project: Project) -> bool:
    try:
        return wb.launch(project, "python", code="print(1)").wait(60).type == "done"
    except RequestRefusedError:
        time.sleep(1)
        return False

"""How a run comes by its sandbox: one that runs no command is replaced once, and one that is late is told as late."""

from typing import Any

import pytest

from modal_app.contract.events import DoneEvent, ErrorEvent
from tests.conftest import FAST, deployed, live_sandboxes
from workbench import Project, Run, Workbench

DEAD: list[dict[str, Any]] = [
    {"rpc": "TaskExecStart", "kill": "sandbox"},
    {"rpc": "TaskExecStart", "status": "FAILED_PRECONDITION"},
    {"rpc": "TaskExecStdioRead", "at": "stream", "status": "DATA_LOSS"},
    {"rpc": "TaskExecStart", "exhaust": "memory"},
]


def ready(run: Run) -> str:
    [said] = [event.message for event in run.events if event.type == "status" and event.phase == "sandbox_ready"]
    return said


@pytest.mark.parametrize("fault", DEAD, ids=lambda fault: "-".join(map(str, fault.values())))
def test_a_sandbox_that_runs_no_command_is_replaced(wb: Workbench, project: Project, fault: dict[str, Any]) -> None:
    with wb.faults.injected(**fault, app=wb.app_name, times=1) as rule_id:
        run = wb.launch(project, "python", code="open('ran', 'a').write('x')")
        end = run.wait(60)
        assert [one.injected for one in (*wb.faults.rules(), *wb.faults.ended()) if one.rule_id == rule_id] == [1]
    assert isinstance(end, DoneEvent), end
    assert "the first one ran no command" in ready(run)
    assert wb.volume(project).read_text("ran") == "x"
    assert live_sandboxes() == []


def test_no_third_one_is_asked_for(wb: Workbench, project: Project) -> None:
    created = {"rpc": "SandboxCreate*", "app": wb.app_name, "delay_s": 0.001}
    dead = {"rpc": "TaskExecStart", "app": wb.app_name, "kill": "sandbox"}
    with wb.faults.injected(**created) as counting, wb.faults.injected(**dead):
        end = wb.launch(project, "python", code="open('ran', 'a').write('x')").wait(60)
        [count] = [one.injected for one in wb.faults.rules() if one.rule_id == counting]
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.recoverable, count) == ("sandbox_unavailable", True, 2)
    assert live_sandboxes() == []


def test_a_prewarmed_one_is_proved_in_the_same_way(wb: Workbench, project: Project) -> None:
    with wb.faults.injected(rpc="TaskExecStart", kill="sandbox", app=wb.app_name, times=1):
        assert wb.launch(project, "prewarm").wait(60).type == "done"
    assert wb.launch(project, "python", code="print(1)").wait(60).type == "done"
    assert live_sandboxes() == []


def test_a_late_one_is_told_as_late(cloud: object) -> None:
    with deployed("late-sandboxes", {**FAST, "WORKBENCH_TIMEOUT_COLD_START_S": "1"}) as wb:
        with wb.faults.injected(rpc="SandboxCreate*", app=wb.app_name, delay_s=1.5):
            late = wb.launch(Project.new(), "python", code="print(1)")
            assert late.wait(60).type == "done"
        assert "over the budget of 1 s" in ready(late)


def test_one_in_time_is_not(wb: Workbench, project: Project) -> None:
    run = wb.launch(project, "python", code="print(1)")
    assert run.wait(60).type == "done"
    assert ready(run) == "the sandbox is ready"

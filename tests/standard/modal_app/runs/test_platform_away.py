"""A platform that fails for longer than any deadline, and comes back: what it has broken is whole again with it."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import modal
import pytest

from tests.conftest import FAST, live_sandboxes
from workbench import Project, Run, Workbench

LEASE_S = float(FAST["WORKBENCH_TIMEOUT_LEASE_S"])
pytestmark = pytest.mark.timeout(180)


COUNTS_LONGER = "import time\nfor n in range(150): print(n, flush=True); time.sleep(0.1)\nopen('ran', 'a').write('x')\n"


@pytest.mark.parametrize("rpc", ["DictUpdate", "Dict*", "Queue*"])
def test_a_run_goes_on_though_its_container_could_show_no_life_for_longer_than_a_lease(
    wb: Workbench, project: Project, rpc: str
) -> None:
    """Nobody could take it for dead meanwhile, so nothing is lost."""
    run = wb.launch(project, "python", code=COUNTS_LONGER)
    next(event for event in run.follow() if event.type == "stream")
    with wb.faults.injected(at="call", rpc=rpc, app=wb.app_name, status="UNAVAILABLE"):
        time.sleep(LEASE_S + 2)
    end = run.wait(90)
    assert end.type == "done", end
    assert run.text() == "".join(f"{n}\n" for n in range(150))
    assert wb.volume(project).read_text("ran") == "x"
    assert wb.attach(run.run_id).wait(60) == end


def test_a_run_that_ends_while_its_container_can_show_no_life_is_told_as_it_ended(
    wb: Workbench, project: Project
) -> None:
    run = wb.launch(project, "python", code="import time; print(1, flush=True); time.sleep(2); raise SystemExit(3)")
    next(event for event in run.follow() if event.type == "stream")
    with wb.faults.injected(at="call", rpc="Dict*", app=wb.app_name, status="UNAVAILABLE"):
        time.sleep(LEASE_S + 2)
    end = run.wait(90)
    assert (end.type, end.code, end.exit_code) == ("error", "process_failed", 3)


def test_the_next_run_after_that_is_done(wb: Workbench, project: Project) -> None:
    """`workbench test --all` tries every kind of call."""
    is_done_after(wb, project, "DictUpdate")


def is_done_after(wb: Workbench, project: Project, rpc: str) -> None:
    assert wb.launch(project, "python", code="print(1)").wait(60).type == "done"
    with wb.faults.injected(at="call", rpc=rpc, status="UNAVAILABLE"):
        time.sleep(LEASE_S + 2)
    after = wb.launch(Project.new(), "python", code="print('again')")
    assert after.wait(60).type == "done", after.terminal
    assert after.text() == "again\n"


AWAY_S = 14.0  # longer than the SDK tries by itself
COUNTS = "import time\nfor n in range(60): print('Zeile', n, 'ü' * n, flush=True); time.sleep(0.1)\n"
ENDS_MEANWHILE = "".join(f"Zeile {n} {'ü' * n}\n" for n in range(60))


@contextmanager
def away(wb: Workbench, run: Run, *, for_s: float = AWAY_S) -> Iterator[None]:
    """What a job prints breaks off, and for a while nothing of its sandbox can be reached."""
    next(event for event in run.follow() if event.type == "stream")
    with wb.faults.injected(at="call", rpc="Task*", app=wb.app_name, status="UNAVAILABLE", for_s=for_s):
        yield


def breaking(wb: Workbench) -> AbstractContextManager[str]:
    """The stream of the job's output breaks off after some of it."""
    return wb.faults.injected(
        at="stream",
        rpc="TaskExecStdioRead",
        argv="*/tmp/job.py*",
        app=wb.app_name,
        after_messages=15,
        status="UNAVAILABLE",
        times=1,
    )


def outages(run: Run) -> list[str]:
    said = [event.message for event in run.events if event.type == "status" and event.phase == "running"]
    return [one.split(":")[0] for one in said[1:]]


TOLD = ["the platform does not answer", "the platform answers again"]


def test_a_job_that_ends_while_the_platform_is_away_is_done(wb: Workbench, project: Project) -> None:
    """`workbench test --all` has one that goes on afterwards, and an outage that lasts too long."""
    goes_on(wb, project, COUNTS, ENDS_MEANWHILE)


def goes_on(wb: Workbench, project: Project, code: str, printed: str) -> None:
    with breaking(wb):
        run = wb.launch(project, "python", code=f"{code}\nopen('ran', 'a').write('x')")
        with away(wb, run):
            end = run.wait(90)
    assert (end.type, run.text()) == ("done", printed)
    assert outages(run) == TOLD
    assert wb.volume(project).read_text("ran") == "x"
    assert live_sandboxes() == []


def test_a_sandbox_that_ends_meanwhile_is_lost_and_not_waited_for(wb: Workbench, project: Project) -> None:
    with breaking(wb):
        run = wb.launch(project, "python", code=COUNTS)
        with away(wb, run, for_s=60):
            [sandbox_id] = live_sandboxes()
            modal.Sandbox.from_id(sandbox_id).terminate(wait=True)
            end = run.wait(50)
    assert (end.type, end.code) == ("error", "sandbox_lost")
    assert live_sandboxes() == []

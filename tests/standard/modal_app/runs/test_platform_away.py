"""A platform that fails for longer than any deadline, and comes back: what it has broken is whole again with it."""

import time

import pytest

from tests.conftest import FAST
from workbench import Project, Workbench

LEASE_S = float(FAST["WORKBENCH_TIMEOUT_LEASE_S"])
pytestmark = pytest.mark.timeout(180)


def is_done_after(wb: Workbench, project: Project, rpc: str) -> None:
    """Have a kind of call fail for longer than a lease, and then run something."""
    assert wb.launch(project, "python", code="print(1)").wait(60).type == "done"
    with wb.faults.injected(at="call", rpc=rpc, status="UNAVAILABLE"):
        time.sleep(LEASE_S + 2)
    after = wb.launch(Project.new(), "python", code="print('again')")
    assert after.wait(60).type == "done", after.terminal
    assert after.text() == "again\n"


def test_the_next_run_of_a_container_that_has_lost_its_lease_is_done(wb: Workbench, project: Project) -> None:
    """It has lost it for good, because its beats did not arrive; it goes on as another owner."""
    is_done_after(wb, project, "DictUpdate")


def test_a_run_under_which_the_lease_is_lost_has_one_end_and_the_next_is_done(wb: Workbench, project: Project) -> None:
    run = wb.launch(project, "python", code="import time\nfor n in range(10**6): print(n, flush=True); time.sleep(0.1)")
    next(event for event in run.follow() if event.type == "stream")
    with wb.faults.injected(at="call", rpc="DictUpdate", status="UNAVAILABLE"):
        time.sleep(LEASE_S + 2)
    end = run.wait(90)
    assert (end.type, end.code) == ("error", "container_lost")
    assert wb.launch(project, "python", code="print(2)", wait_s=60).wait(90).type == "done"
    assert wb.attach(run.run_id).wait(60) == end

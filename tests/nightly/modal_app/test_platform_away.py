"""Every kind of call that a container of the endpoint depends on fails for longer than any deadline, and comes back."""

import pytest

from tests.conftest import FAST, deployed, live_sandboxes
from tests.standard.modal_app.runs.test_platform_away import (
    COUNTS,
    ENDS_MEANWHILE,
    TOLD,
    away,
    breaking,
    goes_on,
    is_done_after,
    outages,
)
from workbench import Project, Workbench

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(
    "rpc", ["Dict*", "DictGet", "DictPop", "Queue*", "QueueGet", "QueuePut", "Sandbox*", "Volume*"]
)
def test_the_next_run_after_a_failure_of_the_platform_is_done(wb: Workbench, project: Project, rpc: str) -> None:
    is_done_after(wb, project, rpc)


def test_a_job_goes_on_after_an_outage(wb: Workbench, project: Project) -> None:
    goes_on(wb, project, f"{COUNTS}time.sleep(14)\nprint('and later')", f"{ENDS_MEANWHILE}and later\n")


def test_what_stays_away_is_given_up_once(cloud: object) -> None:
    with deployed("away-for-long", {**FAST, "WORKBENCH_TIMEOUT_OUTAGE_S": "5"}) as wb, breaking(wb):
        run = wb.launch(Project.new(), "python", code=f"{COUNTS}time.sleep(600)")
        with away(wb, run, for_s=60):
            end = run.wait(50)
        assert (end.type, end.code, end.recoverable) == ("error", "stream_lost", True)
        assert outages(run) == TOLD[:1]
        assert live_sandboxes(wb.app_name) == []

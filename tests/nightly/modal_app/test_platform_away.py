"""Every kind of call that a container of the endpoint depends on fails for longer than any deadline, and comes back."""

import pytest

from tests.standard.modal_app.runs.test_platform_away import is_done_after
from workbench import Project, Workbench

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(
    "rpc", ["Dict*", "DictGet", "DictPop", "Queue*", "QueueGet", "QueuePut", "Sandbox*", "Volume*"]
)
def test_the_next_run_after_a_failure_of_the_platform_is_done(wb: Workbench, project: Project, rpc: str) -> None:
    is_done_after(wb, project, rpc)

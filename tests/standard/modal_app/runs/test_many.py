"""Many runs at the same moment: each of them is served and ends well, and the streams that go on already go on."""

from collections.abc import Iterator

import pytest

from modal_app.contract.events import DoneEvent, ErrorEvent, Phase, StatusEvent
from modal_app.runs.starts import FIRST
from tests.conftest import deployed, live_sandboxes, wait_until
from workbench import Project, Run, Workbench
from workbench.local_cloud.process.state_directory import Running

COUNT = 30
MANY = {"WORKBENCH_MAX_RUNS": f"{COUNT}", "WORKBENCH_TIMEOUT_DISCONNECT_GRACE_S": "120"}  # 20 responses per container
TALK = """
import time
for number in range({lines}):
    print(number)
    time.sleep(0.2)
"""
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def many(cloud: Running) -> Iterator[Workbench]:
    """The endpoint with containers that have room for two thirds of the runs."""
    with deployed("many-runs", MANY) as workbench:
        yield workbench


def queued(run: Run) -> list[str]:
    """What a run has said of waiting."""
    return [one.message for one in run.events if isinstance(one, StatusEvent) and one.phase is Phase.QUEUED]


def printed(run: Run) -> list[str]:
    """The lines of a run, in their order."""
    return "".join(one.text for one in run.events if one.type == "stream").split()


def test_many_that_start_at_the_same_moment_wait_for_their_turn_and_end_well(many: Workbench) -> None:
    earlier = many.launch(Project.new(), "python", code=TALK.format(lines=600))
    wait_until(lambda: len(printed(earlier)) > 2, "the first run does not print")
    with many.faults.injected(rpc="SandboxCreate*", app=many.app_name, delay_s=0.5):
        runs = [many.launch(Project.new(), "python", code=TALK.format(lines=5)) for _ in range(COUNT)]
        seen = len(printed(earlier))
        ends = [run.wait(200) for run in runs]
    assert [end.type for end in ends] == ["done"] * COUNT
    assert [printed(run) for run in runs] == [["0", "1", "2", "3", "4"]] * COUNT
    waited = [run for run in runs if queued(run)]
    assert waited, "nobody had to wait"
    for run in waited:
        assert [message.endswith("to start before this run's") for message in queued(run)] == [True]
        end = run.wait(1)
        assert isinstance(end, DoneEvent)
        assert end.timings is not None
        assert end.timings.queue_ms is not None
    lines = printed(earlier)
    assert len(lines) > seen  # it went on meanwhile
    assert lines == [str(number) for number in range(len(lines))]
    earlier.cancel()
    wait_until(lambda: live_sandboxes("many-runs") == [], "sandboxes are left")


def test_a_run_whose_turn_does_not_come_is_told_so_and_leaves_nothing(cloud: Running) -> None:
    with deployed("late-turns", {"WORKBENCH_TIMEOUT_TURN_S": "1", "WORKBENCH_TIMEOUT_DISCONNECT_GRACE_S": "60"}) as wb:
        project = Project.new()
        with wb.faults.injected(rpc="SandboxCreate*", app=wb.app_name, delay_s=15):
            first = [wb.launch(Project.new(), "python", code="print(1)") for _ in range(FIRST)]
            wait_until(lambda: all(run.state.phase == "sandbox_starting" for run in first), "the first do not start")
            late = wb.launch(project, "python", code="print(1)")
            end = late.wait(60)
        assert isinstance(end, ErrorEvent)
        assert (end.code, end.recoverable) == ("over_capacity", True)
        assert queued(late) == [f"{FIRST} sandboxes are to start before this run's"]
        assert [run.wait(120).type for run in first] == ["done"] * FIRST
        assert wb.launch(project, "python", code="print(1)").wait(60).type == "done"  # its project is free again
        wait_until(lambda: live_sandboxes("late-turns") == [], "sandboxes are left")

"""What a run's log does with batches that the platform does not take, on the queue of a cloud."""

import pytest

from modal_app.runs.batches import Batch
from modal_app.runs.log import LogRefusedError, LogWriter
from modal_app.runs.shared_state import SharedState
from workbench import Project, Workbench
from workbench.cloud_control.controls import CloudControl, Faults
from workbench.local_cloud import Running

RUN_ID = "0190b1a4-0000-7000-8000-000000000000"
BATCH = Batch(1, 1, b"id: 1\ndata: {}\n\n")
TOO_LARGE_BYTES = 65 * 1024 * 1024


async def may_write() -> bool:
    return True


@pytest.fixture
def log(cloud: Running) -> LogWriter:
    return LogWriter(SharedState.named("log").log, RUN_ID, may_write=may_write)


async def test_a_full_queue_is_waited_for(log: LogWriter, cloud: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modal_app.runs.log._PUT_S", 0.1)
    faults = Faults(CloudControl(cloud.http_url, cloud.env()))
    with faults.injected(at="call", rpc="QueuePut", status="RESOURCE_EXHAUSTED", times=3) as rule_id:
        await log.append(BATCH)
        assert [one.injected for one in (*faults.rules(), *faults.ended()) if one.rule_id == rule_id] == [3]


async def test_a_batch_that_no_queue_takes_is_not_put_for_ever(log: LogWriter) -> None:
    with pytest.raises(LogRefusedError):
        await log.append(Batch(1, 1, b"x" * TOO_LARGE_BYTES))


def test_a_run_whose_log_takes_no_more_is_ended_by_its_own_container(wb: Workbench, project: Project) -> None:
    """Nobody else would do it: its owner lives. The job, of which nobody would hear, ends with it."""
    code = "import time; print(1, flush=True); time.sleep(2); print(2, flush=True); time.sleep(600)"
    run = wb.launch(project, "python", code=code)
    next(event for event in run.follow() if event.type == "stream")
    with wb.faults.injected(at="call", rpc="QueuePut", app=wb.app_name, status="INVALID_ARGUMENT", times=1):
        end = wb.attach(run.run_id).wait(90)
    assert (end.type, end.code) == ("error", "too_large")
    assert wb.launch(project, "python", code="print(1)").wait(60).type == "done"

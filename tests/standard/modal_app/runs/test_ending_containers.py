"""A container that is told to end lets its runs go on for a while, and ends those by name that take longer."""

from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from modal_app.contract.events import DoneEvent, ErrorEvent
from tests.conftest import FAST, deployed, live_sandboxes, wait_until
from workbench import Project, Run, Workbench

pytestmark = pytest.mark.timeout(120)
APP = "ending-containers"
COUNTS = "import time\nfor n in range({lines}): print(n, flush=True); time.sleep(0.1)\nopen('ran', 'a').write('x')\n"


@pytest.fixture(scope="module")
def brief(wb: Workbench) -> Iterator[Workbench]:
    """An endpoint whose containers let runs go on for five seconds."""
    settings = {**FAST, "WORKBENCH_TIMEOUT_DISCONNECT_GRACE_S": "20", "WORKBENCH_TIMEOUT_DRAIN_S": "5"}
    with deployed(APP, settings) as workbench:
        yield workbench


def begun(wb: Workbench, project: Project, *, lines: int) -> Run:
    run = wb.launch(project, "python", code=COUNTS.format(lines=lines))
    wait_until(lambda: bool(run.text()), "the job did not print")
    return run


def preempt(wb: Workbench) -> None:
    """Take the app's container away, by a request that changes nothing."""
    with wb.faults.injected(at="web", app=APP, path="/health", preempt=True, times=1) as rule_id:
        with suppress(httpx.TransportError):  # the container may be gone before it has answered
            httpx.get(f"{wb.endpoint.url}/health", timeout=60)
        wait_until(lambda: _fired(wb, rule_id), "no container was taken away")


def _fired(wb: Workbench, rule_id: str) -> bool:
    return any(one.rule_id == rule_id and one.injected for one in (*wb.faults.rules(), *wb.faults.ended()))


def test_a_run_that_ends_soon_survives_the_end_of_its_container(brief: Workbench, project: Project) -> None:
    run = begun(brief, project, lines=30)
    preempt(brief)
    end = run.wait(60)
    assert isinstance(end, DoneEvent), end
    assert run.text() == "".join(f"{n}\n" for n in range(30))
    assert brief.volume(project).read_text("ran") == "x"
    assert live_sandboxes(APP) == []


def test_a_run_that_takes_longer_is_told_by_name(brief: Workbench, project: Project) -> None:
    run = begun(brief, project, lines=400)
    preempt(brief)
    end = run.wait(60)
    assert isinstance(end, ErrorEvent)
    assert (end.code, end.recoverable) == ("container_lost", True)
    assert end.sandbox is not None
    assert end.sandbox.terminated
    assert live_sandboxes(APP) == []


def test_a_deployment_disturbs_no_run_that_ends_soon(brief: Workbench, project: Project) -> None:
    run = begun(brief, project, lines=30)
    brief.deploy()
    assert run.wait(60).type == "done"
    assert run.text() == "".join(f"{n}\n" for n in range(30))
    assert brief.volume(project).read_text("ran") == "x"

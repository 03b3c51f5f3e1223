"""A run is kept for as long as the endpoint is set to keep it, and then it is gone, and says so."""

import time
from collections.abc import Iterator

import modal
import pytest

from modal_app.runs.archive_writer import directory
from tests.conftest import caller, deployed, wait_until
from tests.standard.modal_app.runs.conftest import frames, python
from workbench import Project, Workbench
from workbench.local_cloud.process.state_directory import Running

APP, KEEP_S = "short-memory", 10
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def forgetful(cloud: Running) -> Iterator[Workbench]:
    """The endpoint, keeping runs for seconds."""
    with deployed(APP, {"WORKBENCH_TIMEOUT_KEEP_S": f"{KEEP_S}"}) as workbench:
        yield workbench


def test_a_run_that_is_no_longer_kept_is_gone(forgetful: Workbench, project: Project) -> None:
    archive = modal.Volume.from_name(f"{APP}-runs")
    key = {"Idempotency-Key": f"once-{project.project_id}"}
    with caller(forgetful) as client:
        first = client.post("/generate", json=python(project, "print(1)"), headers=key)
        run_id, ended_at = first.headers["x-run-id"], time.monotonic()
        assert frames(client.get(f"/generate/{run_id}").text) == frames(first.text)
        wait_until(lambda: _is_there(archive, run_id), "there is no archive")
        while time.monotonic() < ended_at + KEEP_S + 1:
            time.sleep(0.1)
        for answer in (
            client.get(f"/generate/{run_id}"),
            client.delete(f"/generate/{run_id}"),
            client.post("/generate", json=python(project, "print(1)"), headers=key),
        ):
            assert (answer.status_code, answer.json()["code"]) == (410, "gone")
        stranger = client.get(f"/generate/{run_id}", params={"user_id": Project.new().user_id})
        assert (stranger.status_code, stranger.json()["code"]) == (404, "not_found")
        assert modal.Function.from_name(APP, "sweep").remote()["archives"] == 1
        assert not _is_there(archive, run_id)
        assert client.get(f"/generate/{run_id}").status_code == 410
        assert client.post("/generate", json=python(project, "print(1)")).status_code == 200


def _is_there(archive: modal.Volume, run_id: str) -> bool:
    try:
        return archive.listdir(directory(run_id)) != []
    except modal.exception.NotFoundError:
        return False


def test_an_archive_whose_commit_is_lost_is_written_again(wb: Workbench, project: Project) -> None:
    """The platform says that it has committed, and has not: the archive is read back, so that is seen."""
    with wb.faults.injected(at="commit", lose=True, times=1):
        run = wb.launch(project, "files", op="list")  # it has no sandbox: the only commit is the archive's
        assert run.wait(60).type == "done"
        checks = wb.runs.get(run.run_id, wait_s=60) and wb.runs.verify(run.run_id)
        assert [fault.at for fault in wb.faults.happened()][-1] == "commit"
    assert [check for check in checks if not check.ok] == []


def test_a_reader_that_leaves_while_the_archive_is_written_takes_nothing_from_it(
    wb: Workbench, project: Project
) -> None:
    """Much output, so that reader and archive are busy with it at the same time."""
    code = "import sys\nfor _ in range(600): sys.stdout.write('x' * 65535 + '\\n')"
    with caller(wb) as client:
        for _ in range(3):
            answer = client.post("/generate", json=python(project, code))
            run_id = answer.headers["x-run-id"]
            assert wb.runs.get(run_id, wait_s=30).stream == "".join(frames(answer.text)).encode()

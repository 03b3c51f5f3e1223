"""A container has so many runs at once; whoever comes then is refused before anything is made, and may come again."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import caller, deployed, live_sandboxes, wait_until
from tests.standard.modal_app.runs.conftest import first_event, python
from workbench import Project, Workbench
from workbench.local_cloud.process.state_directory import Running

APP, RUNS = "few-runs", 3
SETTINGS = {"WORKBENCH_MAX_RUNS": f"{RUNS}", "WORKBENCH_TIMEOUT_DISCONNECT_GRACE_S": "90"}
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def small(cloud: Running) -> Iterator[Workbench]:
    """The endpoint with room for few."""
    with deployed(APP, SETTINGS) as workbench:
        yield workbench


def start(client: httpx.Client) -> str:
    """Start a run that lasts, leave it, and return its id."""
    with client.stream("POST", "/generate", json=python(Project.new(), "import time; time.sleep(60)")) as response:
        return str(first_event(response.iter_lines())["run_id"])


def fits(client: httpx.Client) -> bool:
    """Whether one more run is taken; it ends well then."""
    answer = client.post("/generate", json=python(Project.new(), "print(1)"))
    assert answer.status_code == 429 or '"type":"done"' in answer.text
    return answer.status_code == 200


def test_more_runs_than_fit_are_refused_until_one_has_ended(small: Workbench) -> None:
    with caller(small, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        runs = [start(client) for _ in range(RUNS)]
        refused = client.post("/generate", json=python(Project.new(), "print(1)"))
        assert (refused.status_code, refused.json()["code"]) == (429, "over_capacity")
        assert client.delete(f"/generate/{runs.pop()}").status_code == 200
        assert len(live_sandboxes(APP)) <= RUNS - 1  # what was refused has made none
        wait_until(lambda: fits(client), "there is no room after a run has ended")  # its archive is to be written
        for run_id in runs:
            assert client.delete(f"/generate/{run_id}").status_code == 200

"""A mode that ends a cloud has a cloud of its own: nobody else's is touched, and nothing is left."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.support.processes import naming
from workbench import Project, Workbench
from workbench.failures import own_cloud
from workbench.failures.experiments import EXPERIMENTS, NotProvokedError
from workbench.failures.own_cloud import OwnCloudFailedError
from workbench.local_cloud import STATE_VARIABLE

pytestmark = pytest.mark.timeout(180)
OWN = [name for name, one in EXPERIMENTS.items() if one.own_cloud]


@pytest.fixture
def shared() -> Iterator[Path]:
    """Stands for the state directory of the cloud that everybody uses."""
    root = Path(tempfile.mkdtemp(prefix="workbench-shared-"))
    root.chmod(0o711)
    yield root
    shutil.rmtree(root)


def left(shared: Path) -> list[Path]:
    return list((shared / "experiments").iterdir())


def test_the_cloud_of_everybody_else_goes_on_as_it_is(wb: Workbench) -> None:
    before = (wb.target.cloud_pid, round(wb.clock.offset_s()))
    wb.failures.run("cloud-restarted").require()
    assert (wb.target.cloud_pid, round(wb.clock.offset_s())) == before
    assert wb.launch(Project.new(), "python", code="print(1)").wait().type == "done"
    assert left(wb.target.private.parent) == []


@pytest.mark.parametrize("name", OWN)
def test_it_is_never_brought_about_where_others_are(wb: Workbench, name: str) -> None:
    with pytest.raises(NotProvokedError, match="would meet whoever uses this cloud"):
        wb.failures.run_here(name)
    with pytest.raises(NotProvokedError, match="a cloud that ends with it"), wb.failures.provoked(name, Project.new()):
        pass


def test_one_that_takes_too_long_is_ended_with_its_cloud(shared: Path) -> None:
    steps: list[str] = []
    with pytest.raises(OwnCloudFailedError, match="not within 5 s"):
        own_cloud.run(OWN[0], shared, steps.append, deadline_s=5)
    wait_until(lambda: naming(str(shared)) == [], "its processes live on")
    assert left(shared) == []


@pytest.mark.parametrize("begun", ["lock", "running.json"])
def test_a_cloud_that_just_starts_is_waited_for(shared: Path, begun: str) -> None:
    """Whoever is ended while its cloud starts has nobody to stop it: it ends by itself, and its state goes after it."""
    is_waited_for(shared, begun)


def is_waited_for(shared: Path, begun: str) -> None:
    """Fail unless a cloud that has made this file is gone with whoever has started it."""
    with own_cloud._state(shared) as root, own_cloud._process(OWN[0], root):
        wait_until(lambda: (root / begun).exists(), "no cloud was started")
    assert left(shared) == []
    wait_until(lambda: naming(str(shared)) == [], "its processes live on")
    assert left(shared) == []


def test_what_breaks_off_there_is_told_and_leaves_nothing(shared: Path) -> None:
    with pytest.raises(OwnCloudFailedError, match="no failure mode 'never-heard-of'"):
        own_cloud.run("never-heard-of", shared, lambda step: None)
    assert left(shared) == []
    wait_until(lambda: naming(str(shared)) == [], "its processes live on")


def test_whoever_is_killed_leaves_no_cloud_and_the_next_one_clears_the_rest(shared: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom workbench.failures import own_cloud\n"
    code += f"own_cloud.run({OWN[0]!r}, Path(sys.argv[1]), lambda step: None)"
    env = {key: value for key, value in os.environ.items() if key != STATE_VARIABLE}
    with subprocess.Popen([sys.executable, "-c", code, str(shared)], env=env, start_new_session=True) as session:
        wait_until(lambda: any("running.json" in names for _, _, names in os.walk(shared)), "no cloud was started")
        assert own_cloud.clear(shared) == []  # it is in use
        session.send_signal(signal.SIGKILL)
        session.wait(30)
    wait_until(lambda: naming(str(shared)) == [], "a cloud outlived its experiment")
    assert len(own_cloud.clear(shared)) == 1
    assert left(shared) == []


def test_the_end_of_its_session_ends_the_process_at_once(shared: Path) -> None:
    began = time.monotonic()
    with own_cloud._state(shared) as root, own_cloud._process(OWN[0], root) as process:
        assert process.poll() is None
    assert process.returncode is not None
    assert time.monotonic() - began < own_cloud._END_S  # it was not killed for its time

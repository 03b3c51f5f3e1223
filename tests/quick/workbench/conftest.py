"""What stands for a cloud where no cloud is needed."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workbench.deployment.model_backing import Scripted, scripted_model
from workbench.deployment.targets import Target


@contextmanager
def _beside() -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """What stands for the local cloud: a process that the scripted model goes on beside."""
    with _beside() as child:
        yield child


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    """A scripted model in a process of its own, as it stands beside a local cloud."""
    private: Path = tmp_path_factory.mktemp("cloud") / "endpoints"
    with _beside() as child:
        yield scripted_model(Target("local", private, cloud_pid=child.pid))

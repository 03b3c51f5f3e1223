"""`pytest --nbval-lax notebooks` is what people try first, and it works."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.places import outside
from workbench.deployment.model_backing import WITHOUT_CLAUDE_VARIABLE
from workbench.local_cloud.process.state_directory import Running


@pytest.mark.timeout(400)
def test_nbval_accepts_the_notebooks(cloud: Running) -> None:
    env = {name: value for name, value in outside().items() if name != WITHOUT_CLAUDE_VARIABLE}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "notebooks"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=390, check=False)
    assert done.returncode == 0, done.stdout[-3000:]

"""The same notebook on Modal itself, for whoever has an account: what runs locally runs there."""

import json
import os
import subprocess
import sys

import pytest

from workbench import notebooks

pytestmark = [
    pytest.mark.modal_account,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        os.environ.get("WORKBENCH_TEST_MODAL") != "1",
        reason="goes to Modal and costs money: set WORKBENCH_TEST_MODAL=1 with a token (`modal token new`)",
    ),
]


def test_the_quickstart_runs_on_modal() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    command = [sys.executable, "-m", "workbench", "notebooks", "run", "01", "--target", "modal", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = notebooks.find(["01"])
    assert json.loads(done.stdout)["notebook"] == path.stem

"""The stock JavaScript SDK against the local cloud: each script here holds promises about one part."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.standard.javascript.conftest import NODE, SCRIPT_S
from tests.support.commands import Cli
from tests.support.paths import APPS
from workbench.local_cloud.process.state_directory import Running

OWN_PYTHON = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"


CALLS = APPS / "calls.py"
pytestmark = NODE


def run(scripts: Path, cloud: Running, name: str, **env: str) -> None:
    """Run the tests of one script; fail with what they printed when one of them does."""
    command = ["node", "--test-reporter=spec", str(scripts / name)]
    environment = {**os.environ, **cloud.env(), "BASE_IMAGE": OWN_PYTHON, "NO_COLOR": "1", **env}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=SCRIPT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-8000:]


def test_sandboxes(scripts: Path, cloud: Running) -> None:
    run(scripts, cloud, "sandboxes.mjs", MODAL_SANDBOX_V2="1")


def test_files_of_a_sandbox(scripts: Path, cloud: Running) -> None:
    run(scripts, cloud, "filesystem.mjs")


def test_volumes_secrets_queues_and_images(scripts: Path, cloud: Running) -> None:
    run(scripts, cloud, "objects.mjs")


def test_functions_and_classes(scripts: Path, cloud: Running, modal_cli: Cli) -> None:
    modal_cli("deploy", str(CALLS))
    run(scripts, cloud, "calls.mjs")

"""Apps whose client is killed, which the cloud notices by its silence of a minute."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import modal
import pytest

from tests.conftest import wait_until
from tests.support.commands import PLAIN, Cli
from workbench.local_cloud.process.state_directory import Running

pytestmark = pytest.mark.timeout(300)

APP = """
import modal
app = modal.App("killed-clients")
def queue(name):
    return modal.Queue.from_name(f"killed-clients-{name}", create_if_missing=True)
@app.function()
def wait(number):
    queue("begun").put(number)
    return queue("go-on").get(timeout=200)
@app.local_entrypoint()
def maps():
    list(wait.map(range(2)))
"""


def test_a_detached_app_whose_client_is_killed_in_a_map_ends_with_the_map_s_inputs(
    cloud: Running, modal_cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "killed.py"
    file.write_text(APP)
    begun, go_on = (
        modal.Queue.from_name(f"killed-clients-{name}", create_if_missing=True) for name in ("begun", "go-on")
    )
    command = [sys.executable, "-m", "modal", "run", "--detach", f"{file}::maps"]
    env = {**os.environ, **cloud.env(), **PLAIN, "COLUMNS": "250"}
    with subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert sorted([begun.get(timeout=100), begun.get(timeout=100)]) == [0, 1]
        client.send_signal(signal.SIGKILL)
        said, _ = client.communicate(timeout=60)
    app_id = re.search(r"ap-\w+", said)
    assert app_id, said

    def state() -> str:
        line = re.search(rf"{app_id[0]}\s.*", modal_cli("app", "list"))
        assert line
        return line[0]

    assert "detached" in state()
    go_on.put_many(["one", "two"])
    wait_until(lambda: "stopped" in state(), "the app is not stopped", timeout_s=120)

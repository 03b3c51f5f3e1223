"""`modal run --detach`: an app that ends when its client has left it and its calls are done."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import modal

from tests.conftest import wait_until
from tests.support.commands import PLAIN, Cli

APP = """
import modal
app = modal.App("let-go")
@app.function()
def wait():
    return modal.Queue.from_name("let-go", create_if_missing=True).get(timeout=100)
@app.function()
def answer():
    return "answered"
@app.local_entrypoint()
def spawns():
    print("call", wait.spawn().object_id)
@app.local_entrypoint()
def calls():
    print(answer.remote())
@app.local_entrypoint()
def fails():
    raise ValueError(answer.remote())
@app.local_entrypoint()
def stays():
    print("call", wait.spawn().object_id, flush=True)
    import time
    time.sleep(100)
"""


def listed(modal_cli: Cli, text: str) -> str:
    """The state of the app that a run's output names."""
    app_id = re.search(r"ap-\w+", text)
    assert app_id, text
    line = re.search(rf"{app_id[0]}\s.*", modal_cli("app", "list"))
    assert line
    return line[0]


def test_a_detached_app_outlives_its_entrypoint_for_as_long_as_a_call_runs(cloud: Any, tmp_path: Path) -> None:
    file = tmp_path / "let_go.py"
    file.write_text(APP)
    modal_cli = Cli({**cloud.env(), "MODAL_LOGS_TIMEOUT": "1"})
    said = modal_cli("run", "--detach", f"{file}::spawns")
    assert "detached" in listed(modal_cli, said)
    call_id = re.search(r"call (fc-\w+)", said)
    assert call_id, said
    modal.Queue.from_name("let-go", create_if_missing=True).put("done")
    assert modal.FunctionCall.from_id(call_id[1]).get(timeout=60) == "done"
    wait_until(lambda: "stopped" in listed(modal_cli, said), "the app is not stopped")


def test_a_detached_app_without_a_call_ends_with_its_entrypoint(modal_cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "let_go.py"
    file.write_text(APP)
    said = modal_cli("run", "--detach", f"{file}::calls")
    assert "answered" in said
    assert "Timed out" not in said
    assert "stopped" in listed(modal_cli, said)


def test_a_detached_app_whose_entrypoint_fails_ends(modal_cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "let_go.py"
    file.write_text(APP)
    said = modal_cli("run", "--detach", f"{file}::fails", check=False)
    assert "ValueError: answered" in said
    wait_until(lambda: "stopped" in listed(modal_cli, said), "the app is not stopped")


def test_a_detached_app_whose_client_is_interrupted_ends_with_its_calls(
    cloud: Any, modal_cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "let_go.py"
    file.write_text(APP)
    command = [sys.executable, "-m", "modal", "run", "--detach", f"{file}::stays"]
    env = {**os.environ, **cloud.env(), **PLAIN, "COLUMNS": "250"}
    with subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdout is not None
        said = ""
        while (call_id := re.search(r"call (fc-\w+)\n", said)) is None:
            line = client.stdout.readline()
            assert line, said
            said += line
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=60)
    assert "detached" in listed(modal_cli, said)
    modal.Queue.from_name("let-go", create_if_missing=True).put("done")
    assert modal.FunctionCall.from_id(call_id[1]).get(timeout=60) == "done"
    wait_until(lambda: "stopped" in listed(modal_cli, said), "the app is not stopped")

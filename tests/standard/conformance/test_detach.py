"""`modal run --detach`: an app that ends when its entrypoint has returned and its calls are done."""

import re
from pathlib import Path
from typing import Any

import modal

from tests.conftest import wait_until
from tests.support.commands import Cli

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

"""`modal serve`: an app for as long as the command runs, anew with every change of its files."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import wait_until
from tests.support.commands import Cli

APP = """
import modal
app = modal.App("served", image=modal.Image.debian_slim().pip_install("fastapi"))
@app.function()
@modal.fastapi_endpoint()
def hello():
    return "{word}"
"""


def test_a_served_app_follows_its_file_and_ends_with_the_command(cloud: Any, modal_cli: Cli, tmp_path: Path) -> None:
    """Its address stays, a mistake in the file leaves what was served, and nothing stays when the command is ended."""
    file, said = tmp_path / "served.py", tmp_path / "said.txt"
    file.write_text(APP.format(word="one"))
    env = {**os.environ, **cloud.env(), "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "250"}
    with said.open("wb") as output:
        serving = subprocess.Popen(
            [sys.executable, "-m", "modal", "serve", str(file)], env=env, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: f"Watching {tmp_path}" in said.read_text(), "the app is not served")
        found = re.search(r"── (https?://\S+)", said.read_text())
        assert found
        url = found.group(1)
        assert httpx.get(url, timeout=60).json() == "one"
        file.write_text("import modal\napp = modal.App('served'\n")
        wait_until(lambda: "SyntaxError" in said.read_text(), "the change is not noticed")
        assert httpx.get(url, timeout=60).json() == "one"
        file.write_text(APP.format(word="two"))
        wait_until(lambda: httpx.get(url, timeout=60).json() == "two", "the new answer does not come")
        assert re.search(r"served\s.*ephemeral", modal_cli("app", "list"))
        serving.send_signal(signal.SIGINT)
        assert serving.wait(30) is not None
        assert "Timed out" not in said.read_text()
        assert re.search(r"served\s.*stopped", modal_cli("app", "list"))
    finally:
        serving.kill()
        serving.wait(30)

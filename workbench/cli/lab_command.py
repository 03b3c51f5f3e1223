"""`workbench lab`: sets everything up as the demo does, then starts JupyterLab with the workbench and the notebooks."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.common import failing, prepare, say
from workbench.local_cloud import State, daemon, default_state_dir
from workbench.notebooks import notebook_dir

_STOP_S = 15.0
WORKSPACE = "/lab/workspaces/workbench"  # where the extension in `workbench/labextension` opens it


def lab(
    port: Annotated[int, typer.Option(min=1, max=65535, help="JupyterLab's port on 127.0.0.1.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser with it.")] = True,
) -> None:
    """Start JupyterLab with the workbench open, the local cloud running and the endpoint deployed. Ctrl-C ends all."""
    from workbench.session import connect

    with failing():
        prepare()
        directory = notebook_dir()
        state = State(default_state_dir())
        say("starting the local cloud …")
        _, started = daemon.start(state)
        try:
            say("deploying modal_app …")
            with connect("local") as workbench:
                say(f"deployed: {workbench.deploy().url}/generate")
            say("starting JupyterLab; its address with the token follows")
            code = _jupyter(directory, port, browser=browser)
        finally:
            if started:
                say("stopping the local cloud …")
                daemon.stop(state)
    raise typer.Exit(code)


def _jupyter(directory: Path, port: int, *, browser: bool) -> int:
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--ServerApp.root_dir={directory}",
        f"--LabApp.default_url={WORKSPACE}",
        "--LabApp.extension_manager=readonly",
    ]
    if not browser:
        command.append("--no-browser")
    if os.geteuid() == 0:
        command.append("--allow-root")
    # Signals are handled here: Ctrl-C must also work under a shell that makes its children ignore it. JupyterLab runs
    # in a session of its own, because it would ask on the terminal whether Ctrl-C is meant.
    ends = (signal.SIGINT, signal.SIGTERM)
    with subprocess.Popen(command, start_new_session=True) as process:
        before = {number: signal.signal(number, lambda *_: process.terminate()) for number in ends}
        try:
            code = process.wait()
            return 0 if code in (-signal.SIGTERM, 128 + signal.SIGTERM) else code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()

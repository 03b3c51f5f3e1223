"""Starts, finds and ends the local cloud's process.

Blocking calls, for command lines and notebooks; never imports the cloud.

The process outlives who started it and ends on `stop`. Nothing here is trusted by name: a process is known by its id
and start time.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from workbench.errors import WorkbenchError
from workbench.local_cloud.process.state_directory import Running, State, StateUnusableError
from workbench.local_cloud.sandboxes.engine.diagnosis import MORE

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0


class CloudStartFailedError(WorkbenchError):
    """The local cloud did not start; the message says why and what to do."""


def start(state: State, *, port: int | None = None, timeout_s: float = START_TIMEOUT_S) -> tuple[Running, bool]:
    """Return (the running cloud, whether this call started it). Raises CloudStartFailedError."""
    running = state.running()
    if running is not None:
        if port is not None and not running.url.endswith(f":{port}"):
            raise CloudStartFailedError(
                f"the local cloud already runs at {running.url}: run `workbench cloud stop` to choose another port"
            )
        return running, False
    try:
        state.try_out()
    except StateUnusableError as error:
        raise CloudStartFailedError(f"{error} {MORE}") from error
    state.create()
    log = state.open_log()
    command = [sys.executable, "-m", "workbench.local_cloud", "--detach", "--state", str(state.root)]
    if port is not None:
        command += ["--port", str(port)]
    env = {**os.environ, "GRPC_VERBOSITY": "ERROR", "GRPC_ENABLE_FORK_SUPPORT": "0"}
    for name in ("MODAL_SERVER_URL", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        env.pop(name, None)
    with (
        log,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True
        ) as process,
    ):
        try:
            said = _first_line(process, timeout_s)
        except BaseException:  # whoever is interrupted here knows of no cloud to stop
            _kill(process)
            raise
    if "error" in said:
        raise CloudStartFailedError(str(said["error"]))
    running = state.running()
    if running is None:
        raise CloudStartFailedError(f"the local cloud ended as it started; see {state.log}")
    return running, True


def stop(state: State, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """End the running cloud and everything it runs; False when none was running."""
    running = state.running()
    if running is None:
        return False
    try:
        process = psutil.Process(running.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except psutil.TimeoutExpired:
            process.kill()  # its janitor and the kernel clean up behind it
            process.wait(10)
    except psutil.NoSuchProcess:
        pass
    return True


def reset(state: State) -> None:
    """End the cloud and remove all of its state: apps, secrets, volumes and their history.

    Raises StateInUseError, and removes nothing, when a cloud still runs there that has not said so.
    """
    stop(state)
    if state.root.is_dir():
        with state.locked():  # nobody starts meanwhile
            shutil.rmtree(state.root, ignore_errors=True)


def _first_line(process: "subprocess.Popen[bytes]", timeout_s: float) -> dict[str, object]:
    """What the cloud says first; it detaches from `process`, and only keeps its output open until then."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    deadline = time.monotonic() + timeout_s
    data = b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            _kill(process)
            return {"error": f"the local cloud did not start within {timeout_s:g} s; see cloud.log"}
        chunk = os.read(descriptor, 4096)
        if not chunk:
            return {"error": "the local cloud ended as it started; see cloud.log in the state directory"}
        data += chunk
    found: dict[str, object] = json.loads(data)
    return found


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a cloud that has said nothing yet: `process`, or what it left behind in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of the cloud's log."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""

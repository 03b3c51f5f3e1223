"""Starts, finds and ends the local cloud's process.

The functions block, and are for command lines and notebooks. They do not import the cloud itself, which takes long.

The cloud's process goes on when the process that has started it ends. It is identified by its id and its start time, so
that no other process is ever taken for it.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from workbench.errors import WorkbenchError
from workbench.local_cloud.process.state_directory import Running, State, StateInUseError, StateUnusableError
from workbench.local_cloud.sandboxes.engine.diagnosis import MORE

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0


class CloudStartFailedError(WorkbenchError):
    """The local cloud did not start; the message says why and what to do."""


def start(state: State, *, port: int | None = None, timeout_s: float = START_TIMEOUT_S) -> tuple[Running, bool]:
    """Start the cloud of a state directory, unless it runs; returns (the cloud, whether this call started it).

    `port` is that of the gRPC server, None for the last one or a free one; `timeout_s` limits the start, and before it
    the wait for another start or end that is under way. Raises CloudStartFailedError.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            running = state.wait_while_changing(deadline - time.monotonic())
        except StateInUseError as error:
            raise CloudStartFailedError(str(error)) from error
        if running is not None:
            if port is not None and not running.url.endswith(f":{port}"):
                raise CloudStartFailedError(
                    f"the local cloud already runs at {running.url}: run `workbench cloud stop` to choose another port"
                )
            return running, False
        answer = _launched(state, port, timeout_s)
        if "error" not in answer:
            break
        if not answer.get("in_use"):  # else another start came first
            raise CloudStartFailedError(str(answer["error"]))
    running = state.running()
    if running is None:
        raise CloudStartFailedError(f"the local cloud ended as it started: {state.log} says why")
    return running, True


def _launched(state: State, port: int | None, timeout_s: float) -> dict[str, object]:
    """Start a cloud's process and return what it says. Raises CloudStartFailedError."""
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
            answer = _first_line(process, state, timeout_s)
        except BaseException:  # the caller gets no cloud that it could stop
            _kill(process)
            raise
    return answer


def stop(state: State, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """End the running cloud and everything that it runs, after `timeout_s` by SIGKILL; False when none was running.

    One that is just starting is ended when it has started; it counts as none when it has not after `timeout_s`.
    """
    try:
        running = state.wait_while_changing(timeout_s)
    except StateInUseError:
        return False
    if running is None:
        return False
    try:
        process = psutil.Process(running.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except psutil.TimeoutExpired:
            process.kill()  # its janitor and the kernel then clean up
            process.wait(10)
    except psutil.NoSuchProcess:
        pass
    return True


def reset(state: State, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End the cloud and remove all of its state: apps, secrets, volumes and their history.

    Raises StateInUseError, and removes nothing, when a process uses the directory for `timeout_s` seconds more;
    StateError when not all of it could be removed.
    """
    stop(state, timeout_s=timeout_s)
    if not state.root.is_dir():
        return
    with state.locked():  # no cloud can start meanwhile
        from workbench.local_cloud.process import maintenance  # here: it knows all that a state has, and takes long

        maintenance.remove_all(state.root, keep="lock")
        (state.root / "lock").unlink()  # last: whoever takes another one may begin anew
        with contextlib.suppress(OSError):  # a directory that somebody else has made in one of theirs
            state.root.rmdir()


def _first_line(process: "subprocess.Popen[bytes]", state: State, timeout_s: float) -> dict[str, object]:
    """Return the first line that a cloud prints, parsed, or {"error": …} if none comes within `timeout_s` seconds.

    The cloud itself is a child of `process`, which ends early; it closes its standard output after this line.
    """
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    deadline = time.monotonic() + timeout_s
    data = b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            _kill(process)
            return {"error": f"the local cloud did not start within {timeout_s:g} s: {state.log} may say why"}
        chunk = os.read(descriptor, 4096)
        if not chunk:
            return {"error": f"the local cloud ended as it started: {state.log} says why"}
        data += chunk
    found: dict[str, object] = json.loads(data)
    return found


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a cloud that is still starting: `process`, or the child that it has left in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def tail(path: Path, lines: int = 20) -> str:
    """Return the last lines of a log, an empty text when it does not exist."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""

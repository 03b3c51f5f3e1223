"""An experiment in a cloud of its own, which it may end: nobody else's jobs are there.

The SDK works with one cloud in a process, so it is done by a process of its own, with the mode's name as its argument.
That one ends when its standard input does, and its cloud ends with it; so whoever is killed leaves neither. The state
directory that is left then goes at the next such experiment, or by `reset`.
"""

import fcntl
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from workbench.deployment.model_backing import WITHOUT_CLAUDE_VARIABLE
from workbench.errors import WorkbenchError
from workbench.failures.results import FailureResult
from workbench.local_cloud import STATE_VARIABLE, State, StateInUseError, daemon

DEADLINE_S = 300.0
_END_S = 30.0
_CLOUD_END_S = 60.0
_PREFIX = "own-"
_PROCESS = "workbench.cli.own_cloud_process"  # by its name: it needs a session, which needs the failure lab


class OwnCloudFailedError(WorkbenchError):
    """The cloud of an experiment's own, or the experiment in it, broke off; the message says why."""


def run(name: str, shared: Path, on_step: Callable[[str], None], *, deadline_s: float = DEADLINE_S) -> FailureResult:
    """Bring a mode about in a new cloud beside the one whose state is in `shared`. Raises OwnCloudFailedError."""
    clear(shared)
    with _state(shared) as root, _process(name, root) as process:
        for told in _told(process, deadline_s):
            if "step" in told:
                on_step(str(told["step"]))
            if "error" in told:
                raise OwnCloudFailedError(str(told["error"]))
            if "result" in told:
                return FailureResult.model_validate(told["result"])
    raise OwnCloudFailedError(f"'{name}' in a cloud of its own ended without a result, or not within {deadline_s:g} s")


def is_own(private: Path) -> bool:
    """Whether a target, by its private directory, is a cloud that one experiment has for itself."""
    return private.parent.name.startswith(_PREFIX) and private.parent.parent.name == _HOME


def clear(shared: Path) -> list[str]:
    """Remove the states that killed experiments have left beside `shared`; returns their names."""
    found = []
    for root in sorted(path for path in (shared / _HOME).glob(f"{_PREFIX}*") if path.is_dir()):
        with suppress(BlockingIOError), _held(root):  # one that is under way is let be
            _remove(root)
            found.append(root.name)
    return found


_HOME = "experiments"


@contextmanager
def _state(shared: Path) -> Iterator[Path]:
    """A state directory for the length of the block. Whatever runs with it is ended."""
    root = shared / _HOME / f"{_PREFIX}{secrets.token_hex(4)}"
    root.parent.mkdir(exist_ok=True)
    root.parent.chmod(0o711)  # whatever the umask is: sandboxes run as other users
    with _held(root):
        root.mkdir()
        try:
            yield root
        finally:
            _remove(root)


@contextmanager
def _held(root: Path) -> Iterator[None]:
    """Hold the lock that says that an experiment uses a directory. Raises BlockingIOError when another one does."""
    path = root.with_suffix(".lock")
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _remove(root: Path) -> None:
    """Remove a state. A cloud in it whose experiment was ended just starts or ends, and is waited for."""
    with suppress(StateInUseError):  # then the next experiment clears it
        daemon.reset(State(root), timeout_s=_CLOUD_END_S)


@contextmanager
def _process(name: str, root: Path) -> Iterator["subprocess.Popen[bytes]"]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("MODAL_")}
    process = subprocess.Popen(
        [sys.executable, "-m", _PROCESS, name],
        env={**env, STATE_VARIABLE: str(root), WITHOUT_CLAUDE_VARIABLE: "1"},  # no such mode needs a model
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # it ends by this
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


def _told(process: "subprocess.Popen[bytes]", deadline_s: float) -> Iterator[Mapping[str, Any]]:
    """What the process says, one JSON object a line, until its end or the deadline."""
    assert process.stdout is not None
    deadline, held = time.monotonic() + deadline_s, b""
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left_s)[0]:
            return
        chunk = os.read(process.stdout.fileno(), 65536)
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)
        if not chunk:
            return

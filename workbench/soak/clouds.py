"""A private local cloud, and a program that uses it through the SDK, for the phases that need both.

It owns the two processes: whatever happens, neither outlives the phase.
"""

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.local_cloud import Running, State, daemon
from workbench.soak.leftovers import Scene
from workbench.soak.soak_failures import SoakFailedError

_END_S = 10.0
_LOG_LINES = 5


class Client:
    """A running `workbench.soak.sdk_client`; made by `client`."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The process id of the program."""
        return self._process.pid

    def connect(self, running: Running) -> None:
        """Tell the program which cloud to use; it then starts to work."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(running.env()).encode() + b"\n")

    def hear(self, *, timeout_s: float) -> dict[str, Any] | None:
        """The next message of the program, None when it has ended well; raises SoakFailedError after `timeout_s`."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise SoakFailedError(f"the SDK program sent no message for {timeout_s:g} s; {self._said()}")
        line = self._process.stdout.readline()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        if self._process.wait(_END_S) != 0:
            raise SoakFailedError(f"the SDK program failed: {self._said()}")
        return None

    def _said(self) -> str:
        return daemon.tail(self._log, _LOG_LINES) or "it has no message"


@contextmanager
def client(root: Path, *arguments: str) -> Iterator[Client]:
    """Start the program, which imports the SDK while the caller starts a cloud. It is killed when the block ends."""
    log = root / "client.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "workbench.soak.sdk_client", *arguments],
            bufsize=0,  # unbuffered, so that `select` sees everything that is not read yet
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C must reach only this process
        ) as process,
    ):
        try:
            yield Client(process, log)
        finally:
            process.kill()
            process.wait(_END_S)


@contextmanager
def private_state(scene: Scene) -> Iterator[State]:
    """A new state directory; a cloud that is still running on it when the block ends is stopped."""
    state = State(scene.root / "state")
    scene.watched += (state.root / "run",)
    try:
        yield state
    finally:
        daemon.stop(state)


def start(state: State, scene: Scene) -> tuple[Running, float]:
    """Start a cloud, and tell `scene` its process id, by which its control groups are recognised.

    Returns the cloud and the seconds that the start took. Raises SoakFailedError.
    """
    began = time.monotonic()
    try:
        running, started = daemon.start(state)
    except daemon.CloudStartFailedError as error:
        raise SoakFailedError(f"the cloud does not start: {error}; {daemon.tail(state.log, _LOG_LINES)}") from error
    if not started:
        raise SoakFailedError("a cloud that has ended is taken for a running one")
    scene.owners.add(running.pid)
    return running, time.monotonic() - began

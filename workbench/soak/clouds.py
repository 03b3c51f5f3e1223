"""A private local cloud and the SDK program that uses it, for the phases that go through both.

Owns the two processes: whatever happens, neither outlives the phase.
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
        """Its process id."""
        return self._process.pid

    def connect(self, running: Running) -> None:
        """Point it at a cloud; it starts to work then."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(running.env()).encode() + b"\n")

    def hear(self, *, timeout_s: float) -> dict[str, Any] | None:
        """Take the next thing that it tells, None at its good end; raises SoakFailedError."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise SoakFailedError(f"the SDK program told nothing for {timeout_s:g} s; {self._said()}")
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
    """Start the SDK program; it imports the SDK while its caller starts a cloud. Killed at the end."""
    log = root / "client.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "workbench.soak.sdk_client", *arguments],
            bufsize=0,  # so that `select` sees whatever has not been read
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for us to handle
        ) as process,
    ):
        try:
            yield Client(process, log)
        finally:
            process.kill()
            process.wait(_END_S)


@contextmanager
def private_state(scene: Scene) -> Iterator[State]:
    """A state directory of its own; a cloud that still runs on it at the end is ended."""
    state = State(scene.root / "state")
    scene.watched += (state.root / "run",)
    try:
        yield state
    finally:
        daemon.stop(state)


def start(state: State, scene: Scene) -> tuple[Running, float]:
    """Start a cloud, and note its id, whose groups must go with it; returns it and the seconds that it took."""
    began = time.monotonic()
    try:
        running, started = daemon.start(state)
    except daemon.CloudStartFailedError as error:
        raise SoakFailedError(f"the cloud does not start: {error}; {daemon.tail(state.log, _LOG_LINES)}") from error
    if not started:
        raise SoakFailedError("a cloud that has ended is taken for one that runs")
    scene.owners.add(running.pid)
    return running, time.monotonic() - began

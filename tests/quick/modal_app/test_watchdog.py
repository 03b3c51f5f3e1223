"""The entrypoint of a run's sandbox: it ends when its run is silent for too long, and only then."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from modal_app.sandboxes.fleet import WATCHDOG

PATIENCE_S = 1
DEADLINE_S = 60
Watchdog = subprocess.Popen[bytes]


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """It tells what it executes on its stderr."""
    command = ["sh", "-xc", WATCHDOG, "sh", str(PATIENCE_S), str(PATIENCE_S)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, start_new_session=True) as process:
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def heard(watchdog: Watchdog) -> int:
    """How many bytes it has read in time until its end."""
    _, said = watchdog.communicate(timeout=DEADLINE_S)
    return said.decode().count("+ patience=") - 1  # the first is where it begins


def reading(watchdog: Watchdog) -> list[psutil.Process]:
    """Its processes, as soon as it reads: itself first, the one that reads last."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = [psutil.Process(watchdog.pid), *psutil.Process(watchdog.pid).children(recursive=True)]
        if found[-1].name() == "head":
            return found
        assert time.monotonic() < deadline


@pytest.mark.parametrize("sent", [b"", b"."], ids=["never heard", "heard once"])
def test_it_ends_when_nothing_comes(watchdog: Watchdog, sent: bytes) -> None:
    assert watchdog.stdin is not None
    os.write(watchdog.stdin.fileno(), sent)
    assert watchdog.wait(DEADLINE_S) is not None


def test_it_ends_with_its_run(watchdog: Watchdog) -> None:
    assert watchdog.stdin is not None
    watchdog.stdin.write(b"...")
    assert heard(watchdog) == 3


@pytest.mark.parametrize("first", ["the clock", "the reader", "the shell"])
def test_it_hears_what_came_while_it_got_no_processor(watchdog: Watchdog, first: str) -> None:
    """Its time is over when it goes on, whichever of its processes does first; but its run has not been silent."""
    processes = reading(watchdog)
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + DEADLINE_S
    while any(process.status() != psutil.STATUS_STOPPED for process in processes):
        assert time.monotonic() < deadline
    assert watchdog.stdin is not None
    os.write(watchdog.stdin.fileno(), b".")
    time.sleep(2 * PATIENCE_S)
    shell, *_, clock, reader = processes
    ahead = {"the clock": clock, "the reader": reader, "the shell": shell}[first]
    ahead.send_signal(signal.SIGCONT)
    time.sleep(0.2)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    assert heard(watchdog) == 1

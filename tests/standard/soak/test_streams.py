"""Many streams at once, and readers that take nothing: short forms of `workbench soak streams` and `readers`."""

import json
import os
import signal
import subprocess

import pytest

from tests.conftest import wait_until
from tests.support.commands import WORKBENCH, cli
from tests.support.processes import naming
from workbench.local_cloud.process.state_directory import State


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_soak_that_is_ended_leaves_no_cloud(own_state: State, number: signal.Signals) -> None:
    """With its terminal, or at once."""
    leaves_no_cloud(own_state, number)


def leaves_no_cloud(own_state: State, number: signal.Signals) -> None:
    """Fail when anything of a soak outlives its end by a signal."""
    temporary = own_state.root.parent
    command = [*WORKBENCH, "soak", "streams", "--count", "50"]
    env = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # it may be ignored where the tests run
    ) as soak:
        try:
            wait_until(lambda: bool(naming(str(temporary))), "no cloud was started")
            soak.send_signal(number)
            assert soak.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
        finally:
            soak.kill()
    wait_until(lambda: not naming(str(temporary)), "the cloud outlived its soak")
    if number != signal.SIGKILL:
        assert list(temporary.iterdir()) == []


@pytest.mark.timeout(300)
def test_readers_that_take_nothing_are_outlived() -> None:
    report = json.loads(cli("soak", "readers", "--mb", "20", "--stalled", "4", "--json", timeout_s=250).stdout)
    assert (report["ok"], report["failure"], report["stalled"]) == (True, "", 4)
    assert report["taken_mb"] >= 20
    assert len(report["memory_mb"]) == 11  # before, and after each tenth

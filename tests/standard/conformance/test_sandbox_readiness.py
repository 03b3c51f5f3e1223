"""Readiness probes through the stock SDK."""

import time

import modal
import pytest
from modal.exception import ConflictError, InvalidError

from workbench.local_cloud.process.state_directory import Running

DEADLINE_S = 60


@pytest.fixture(scope="module")
def app(cloud: Running) -> modal.App:
    return modal.App.lookup("readiness-tests", create_if_missing=True)


def test_a_port_makes_ready_once_it_is_listened_on(app: modal.App) -> None:
    script = "read word; exec python3 -m http.server 8080"
    sandbox = modal.Sandbox.create("sh", "-c", script, app=app, timeout=120, readiness_probe=modal.Probe.with_tcp(8080))
    try:
        with pytest.raises(modal.exception.TimeoutError):
            sandbox.wait_until_ready(timeout=1)
        sandbox.stdin.write("go\n")
        sandbox.stdin.drain()
        sandbox.wait_until_ready(timeout=DEADLINE_S)
        assert modal.Sandbox.from_id(sandbox.object_id).wait_until_ready(timeout=DEADLINE_S) is None
    finally:
        sandbox.terminate()


def test_a_program_makes_ready_once_it_exits_with_0(app: modal.App) -> None:
    probe = modal.Probe.with_exec("sh", "-c", "echo asked >> /tmp/asked; test -e /tmp/ready", interval_ms=20)
    sandbox = modal.Sandbox.create(app=app, timeout=120, readiness_probe=probe)
    try:
        with pytest.raises(modal.exception.TimeoutError):
            sandbox.wait_until_ready(timeout=1)
        sandbox.exec("touch", "/tmp/ready").wait()
        sandbox.wait_until_ready(timeout=DEADLINE_S)
        asked = sandbox.exec("cat", "/tmp/asked").stdout.read()
        time.sleep(0.5)
        assert sandbox.exec("cat", "/tmp/asked").stdout.read() == asked  # and it is not asked again
    finally:
        sandbox.terminate()


def test_a_sandbox_that_ends_is_never_ready(app: modal.App) -> None:
    sandbox = modal.Sandbox.create("sleep", "1", app=app, timeout=60, readiness_probe=modal.Probe.with_tcp(8080))
    with pytest.raises(ConflictError):
        sandbox.wait_until_ready(timeout=DEADLINE_S)


def test_waiting_without_a_probe_is_an_error(app: modal.App) -> None:
    sandbox = modal.Sandbox.create(app=app, timeout=60)
    with pytest.raises(InvalidError, match="readiness_probe"):
        sandbox.wait_until_ready(timeout=DEADLINE_S)
    sandbox.terminate()


def test_a_program_that_is_not_there_is_not_ready(app: modal.App) -> None:
    probe = modal.Probe.with_exec("no-such-program")
    sandbox = modal.Sandbox.create(app=app, timeout=60, readiness_probe=probe)
    with pytest.raises(modal.exception.TimeoutError):
        sandbox.wait_until_ready(timeout=1)
    sandbox.terminate()

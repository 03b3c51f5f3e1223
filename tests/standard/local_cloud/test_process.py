"""The cloud as a process: it starts once, or says in one sentence why not and what to do."""

import json
import os
import socket
import sqlite3
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.conftest import processes_of, wait_until
from tests.support import warm
from tests.support.places import free_port
from tests.support.processes import naming
from workbench.environment import environment
from workbench.local_cloud import daemon
from workbench.local_cloud.daemon import CloudStartFailedError
from workbench.local_cloud.state import OWNER_VARIABLE, Running, State, StateInUseError


def test_it_starts_once_and_stops(own_state: State) -> None:
    running, started = daemon.start(own_state)
    again, started_again = daemon.start(own_state)
    assert (started, started_again, again) == (True, False, running)
    assert daemon.stop(own_state)
    assert not daemon.stop(own_state)
    assert processes_of(own_state) == []


@pytest.mark.parametrize("before", [True, False])
def test_it_ends_with_its_owner(own_state: State, *, before: bool) -> None:
    """Killed, so that the owner itself cannot do it; before the cloud is up, or after."""
    with subprocess.Popen(["sleep", "600"]) as owner, environment({OWNER_VARIABLE: str(owner.pid)}):
        if before:
            owner.kill()
            owner.wait()
            with pytest.raises(CloudStartFailedError, match="ended as it started"):
                daemon.start(own_state)
            assert {path.name for path in own_state.root.iterdir()} == {"cloud.log"}
        else:
            daemon.start(own_state)
            assert own_state.running() is not None
            owner.kill()
    wait_until(lambda: processes_of(own_state) == [], "the cloud outlived its owner")


def test_its_address_and_token_survive_a_restart(own_state: State) -> None:
    first, _ = daemon.start(own_state, port=free_port())
    daemon.stop(own_state)
    second, _ = daemon.start(own_state)
    assert second.env() == first.env()


def test_a_cloud_that_is_not_found_is_not_taken_for_gone(own_state: State) -> None:
    """Its announcement is lost, or unreadable: nothing of its state may be removed under it."""
    running, _ = daemon.start(own_state)
    announced = (own_state.root / "running.json").read_text()
    (own_state.root / "running.json").unlink()
    with pytest.raises(StateInUseError, match="already runs"):
        daemon.reset(own_state)
    (own_state.root / "running.json").write_text(announced)
    assert own_state.running() == running
    daemon.reset(own_state)
    assert processes_of(own_state) == []
    assert not own_state.root.exists()


def test_what_is_secret_is_readable_by_its_owner_only(state: State, cloud: Running) -> None:
    for name in ("credentials.json", "running.json", "cloud.sqlite"):
        assert (state.root / name).stat().st_mode & 0o077 == 0, name
    secret = cloud.token_secret
    assert secret not in state.log.read_text()
    assert naming(secret) == []


def test_it_listens_on_loopback_only(cloud: Running) -> None:
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:") for connection in psutil.Process(cloud.pid).net_connections("inet")
    }
    assert addresses == {"127.0.0.1"}


def test_a_port_that_is_taken_is_told(own_state: State) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CloudStartFailedError, match=f"{port}.*--port|port {port}"):
            daemon.start(own_state, port=port)
    assert own_state.running() is None


def test_a_state_of_another_version_is_told_and_kept(own_state: State) -> None:
    own_state.create()
    with sqlite3.connect(own_state.root / "cloud.sqlite") as database:
        database.execute("PRAGMA user_version=999")
    with pytest.raises(CloudStartFailedError, match="workbench cloud reset"):
        daemon.start(own_state)
    with sqlite3.connect(own_state.root / "cloud.sqlite") as database:
        assert database.execute("PRAGMA user_version").fetchone() == (999,)


def test_a_state_that_cannot_be_read_is_told(own_state: State) -> None:
    own_state.create()
    (own_state.root / "cloud.sqlite").write_bytes(b"not a database, " * 1000)
    with pytest.raises(CloudStartFailedError, match="workbench cloud reset"):
        daemon.start(own_state)


def test_a_state_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CloudStartFailedError, match="WORKBENCH_STATE_DIR"):
        daemon.start(State(tmp_path / "file" / "state"))


def test_leftovers_of_a_dead_cloud_are_no_obstacle(own_state: State) -> None:
    """A machine that lost power leaves an announcement and a run directory behind."""
    running, _ = daemon.start(own_state)
    daemon.stop(own_state)
    (own_state.root / "running.json").write_text(json.dumps({**running.__dict__, "pid": 2**22 - 1}))
    (own_state.root / "run" / "deadbeef").mkdir()
    _, started = daemon.start(own_state)
    assert started
    assert not (own_state.root / "run" / "deadbeef").exists()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (None, "apt-get install -y bubblewrap"),
        ("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n", "namespace"),
    ],
    ids=["no bubblewrap", "no user namespaces"],
)
def test_without_isolation_it_refuses(
    own_state: State, monkeypatch: pytest.MonkeyPatch, script: str | None, told: str
) -> None:
    """Nothing ever runs with less than the whole isolation."""
    programs = own_state.root.parent / "bin"
    programs.mkdir(mode=0o755)
    if script is not None:
        (programs / "bwrap").write_text(script)
        (programs / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(CloudStartFailedError, match=told):
        daemon.start(own_state)
    assert own_state.running() is None


def test_another_version_of_the_sdk_is_told(own_state: State) -> None:
    code = (
        "import modal, sys; modal.__version__ = '1.0.0'; import workbench.local_cloud.__main__ as cloud; "
        f"sys.argv = ['cloud', '--state', {str(own_state.root)!r}]; sys.exit(cloud.main())"
    )
    done = warm.run("-c", code, env=os.environ)
    assert done.returncode == 1
    assert "pip install modal==" in json.loads(done.stdout)["error"]


def test_a_caller_without_the_token_gets_nothing(cloud: Running) -> None:
    env = {**os.environ, **cloud.env(), "MODAL_TOKEN_SECRET": "wrong"}
    done = warm.run("-m", "modal", "app", "list", env=env)
    assert done.returncode != 0
    assert "oken" in done.stdout + done.stderr

"""The cloud as a process: it starts once, or says in one sentence why not and what to do."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import processes_of, wait_until
from tests.support import warm
from tests.support.places import free_port
from tests.support.processes import naming
from workbench.local_cloud.process import daemon
from workbench.local_cloud.process.daemon import CloudStartFailedError
from workbench.local_cloud.process.state_directory import OWNER_VARIABLE, Running, State, StateInUseError
from workbench.machine.environment import environment


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
        daemon.reset(own_state, timeout_s=0.5)
    (own_state.root / "running.json").write_text(announced)
    assert own_state.running() == running
    daemon.reset(own_state)
    assert processes_of(own_state) == []
    assert not own_state.root.exists()


def test_what_is_secret_is_readable_by_its_owner_only(state: State, cloud: Running) -> None:
    for name in ("credentials.json", "running.json", "cloud.sqlite", "cloud.log", "port", "lock"):
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


def aside(state: State) -> dict[str, bytes]:
    """What was moved aside: the name of each file in the one place for it, and what it holds."""
    [place] = state.root.glob("damaged-*")
    return {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}


def used(state: State) -> Running:
    """A cloud's state with something in it; the cloud has stopped."""
    running, _ = daemon.start(state)
    script = "import modal; modal.Dict.from_name('kept', create_if_missing=True).hydrate()"
    assert warm.run("-c", script, env={**os.environ, **running.env()}).returncode == 0
    assert daemon.stop(state)
    return running


@pytest.mark.parametrize("damaged", [None], ids=["header"])  # `workbench test --all` has more
def test_a_damaged_database_is_moved_aside_and_named(own_state: State, damaged: bytes | None) -> None:
    is_moved_aside_and_named(own_state, damaged)


def is_moved_aside_and_named(own_state: State, damaged: bytes | None) -> None:
    """Nothing begins anew without a word, and nothing that somebody may want to look at is removed."""
    used(own_state)
    path = own_state.root / "cloud.sqlite"
    data = damaged if damaged is not None else b"\0" * 100 + path.read_bytes()[100:]
    path.write_bytes(data)
    with pytest.raises(
        CloudStartFailedError, match=r"is damaged \(cloud.sqlite.*cloud.sqlite.* is in .*/damaged-"
    ) as told:
        daemon.start(own_state)
    assert "reset" not in str(told.value)
    assert aside(own_state)["cloud.sqlite"] == data
    assert daemon.start(own_state)[1]


def test_damaged_credentials_are_moved_aside_and_named(own_state: State) -> None:
    before = used(own_state)
    (own_state.root / "credentials.json").write_bytes(b"{")
    with pytest.raises(CloudStartFailedError, match=r"is damaged \(credentials.json: .*credentials.json is in"):
        daemon.start(own_state)
    assert aside(own_state) == {"credentials.json": b"{"}
    after, _ = daemon.start(own_state)
    assert after.token_secret != before.token_secret
    script = "import modal; modal.Dict.from_name('kept').hydrate()"
    found = warm.run("-c", script, env={**os.environ, **after.env()})
    assert found.returncode == 0, found.stderr


def test_what_else_is_in_the_way_is_told_in_one_sentence(own_state: State) -> None:
    own_state.create()
    (own_state.root / "credentials.json").mkdir()
    with pytest.raises(CloudStartFailedError, match=r"cannot be used: .*credentials.json"):
        daemon.start(own_state)


# Starts a cloud whose state is on a disk of 256 KiB, or on one that something else has filled.
FULL = """
mkdir /mnt/state
if [ "$1" = filled ]; then
    WORKBENCH_STATE_DIR=/mnt/state "$2" -c "from pathlib import Path
from workbench.local_cloud.process.state_directory import State
state = State(Path('/mnt/state')); state.create(); state.credentials()"
    head -c 10000000 /dev/zero > /mnt/filler 2> /dev/null
fi
exec "$2" -m workbench.local_cloud --state /mnt/state
"""


@pytest.mark.parametrize(("how", "size"), [("small", 65_536), ("filled", 262_144)])
def test_a_full_disk_is_called_that(how: str, size: int) -> None:
    bubblewrap = shutil.which("bwrap")
    assert bubblewrap is not None
    within = [bubblewrap, "--dev-bind", "/", "/", "--size", str(size), "--tmpfs", "/mnt", "sh", "-c", FULL, "sh", how]
    done = subprocess.run([*within, sys.executable], capture_output=True, text=True, timeout=120, check=False)
    error = json.loads(done.stdout.splitlines()[0])["error"]
    assert "the disk that holds /mnt/state is full" in error, done.stderr
    assert "reset" not in error


def test_files_are_their_owner_s_whatever_the_umask(own_state: State) -> None:
    before = os.umask(0)
    try:
        used(own_state)
        daemon.start(own_state)
    finally:
        os.umask(before)
    told = {
        str(path.relative_to(own_state.root)): oct(path.stat().st_mode & 0o777)
        for path in own_state.root.iterdir()
        if path.is_file() and path.stat().st_mode & 0o077
    }
    assert told == {}
    assert {path.stat().st_mode & 0o777 for path in own_state.root.iterdir() if path.is_dir()} <= {0o700, 0o711}


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
        "import sys; from importlib import metadata; import workbench.local_cloud.__main__ as cloud; "
        "metadata.version = lambda name: '1.0.0'; "
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

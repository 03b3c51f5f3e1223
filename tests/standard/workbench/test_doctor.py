"""A broken machine is told what it lacks and how to get it, by `workbench doctor` and by what refuses to start."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import processes_of, wait_until
from tests.support.commands import WORKBENCH, cli
from workbench.local_cloud.process import daemon
from workbench.local_cloud.process.state_directory import STATE_VARIABLE, State
from workbench.machine import checks, prerequisites

OLD = """\
#!/bin/sh
if [ "$1" = --version ]; then echo bubblewrap 0.4.1; exit; fi
echo 'bwrap: Unknown option --disable-userns' >&2
exit 1
"""
REFUSED = """\
#!/bin/sh
if [ "$1" = --version ]; then echo bubblewrap 0.9.0; exit; fi
echo 'bwrap: setting up uid map: Permission denied' >&2
exit 1
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the users of sandboxes reach."""
    path = Path(tempfile.mkdtemp(prefix="workbench-doctor-test-"))
    path.chmod(0o711)
    yield path
    daemon.stop(State(path / "state"))
    shutil.rmtree(path)


def failures(env: dict[str, str]) -> dict[str, dict[str, str]]:
    """What doctor says is broken; each has a fix, and its exit code tells it."""
    done = cli("doctor", "--json", env=env)
    assert "Traceback" not in done.stdout + done.stderr
    answer = json.loads(done.stdout)
    failed = {one["name"]: one for one in answer["checks"] if one["status"] == "fail"}
    assert (answer["ok"], done.returncode) == ((False, 1) if failed else (True, 0))
    assert all(one["found"] and one["fix"] for one in failed.values())
    return failed


def refusal(env: dict[str, str]) -> str:
    """The one sentence with which the local cloud does not start; nothing of it runs then."""
    done = cli("cloud", "start", env=env)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    *progress, error = done.stderr.splitlines()
    assert len(progress) <= 1
    assert error.startswith("error: ")
    state = State(Path(env[STATE_VARIABLE]))
    assert state.running() is None
    wait_until(lambda: processes_of(state) == [], "the refused cloud is still there")
    assert not (state.root / "run").exists() or list((state.root / "run").iterdir()) == []
    return error


def test_a_healthy_machine_passes(place: Path) -> None:
    """Doctor answers for the very machine that runs these tests."""
    env = {STATE_VARIABLE: str(place / "state")}
    assert failures(env) == {}
    assert not (place / "state").exists()
    table = cli("doctor", env=env)
    assert table.returncode == 0
    for check in checks.CHECKS:
        assert check.name in table.stdout
    assert "Nothing is in the way" in table.stdout


@pytest.mark.parametrize(
    ("script", "checks", "told"),
    [
        (OLD, {"bubblewrap", "isolation"}, "conda install -c conda-forge bubblewrap"),
        (REFUSED, {"isolation"}, "setting up uid map: Permission denied"),
        (None, {"bubblewrap", "isolation"}, "sudo apt-get install -y bubblewrap"),
    ],
    ids=["old bubblewrap", "no user namespaces", "no bubblewrap"],
)
def test_without_isolation_doctor_and_cloud_say_the_same_and_nothing_starts(
    place: Path, script: str | None, checks: set[str], told: str
) -> None:
    """Nothing ever runs with less than the whole isolation, and nobody is left without the next step."""
    programs = place / "bin"
    programs.mkdir(mode=0o755)
    (programs / "git").symlink_to(shutil.which("git") or "")
    path = str(programs)  # without apt-get, too: else root would be given bubblewrap
    if script is not None:
        (programs / "bwrap").write_text(script)
        (programs / "bwrap").chmod(0o755)
        path += os.pathsep + os.environ["PATH"]
    env = {STATE_VARIABLE: str(place / "state"), "PATH": path}
    failed = failures(env)
    assert set(failed) == checks
    error = refusal(env)
    assert told in error
    assert failed["isolation"]["fix"] in error
    assert "`workbench doctor` tells more" in error


@pytest.mark.parametrize("where", ["file/state", "/proc/nowhere/state"])
def test_a_state_directory_that_cannot_be_made_is_told(place: Path, where: str) -> None:
    """Below a file, and where even root may not write."""
    (place / "file").write_text("")
    env = {STATE_VARIABLE: str(place / where)}
    failed = failures(env)
    assert set(failed) == {"state directory"}
    error = refusal(env)
    assert failed["state directory"]["found"] in error
    assert "set WORKBENCH_STATE_DIR to another" in error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's sandboxes have users of their own")
def test_a_state_directory_that_sandboxes_cannot_reach_is_told(place: Path) -> None:
    """Else every sandbox with a volume would fail, much later."""
    (place / "closed").mkdir(mode=0o700)
    env = {STATE_VARIABLE: str(place / "closed" / "below" / "state")}
    assert failures(env)["state directory"]["fix"] in refusal(env)
    (place / "closed").chmod(0o711)
    assert failures(env) == {}


def test_a_warning_is_no_failure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room on the disk is told and stops nobody."""
    monkeypatch.setattr(checks, "DISK_NEEDED_BYTES", 2**62)
    (disk,) = (found for found in checks.examine(State(place)) if found.name == "disk")
    assert (disk.status, bool(disk.fix)) == ("warn", True)


def test_another_system_is_told_how_to_have_linux(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only Linux has is not even looked for."""
    monkeypatch.setattr(sys, "platform", "darwin")
    found = {one.name: one for one in checks.examine(State(place))}
    assert set(found) == {"operating system", "Python", "modal SDK"}
    assert (found["operating system"].status, found["operating system"].fix) == ("fail", prerequisites.LINUX_ONLY)


def test_a_check_that_breaks_is_a_finding(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool for broken machines must not break on them."""

    def broken(_: State) -> checks.Outcome:
        raise OSError("unforeseen")

    monkeypatch.setattr(checks, "CHECKS", (checks.Check("broken", broken),))
    (found,) = checks.examine(State(place))
    assert (found.status, found.found) == ("fail", "OSError: unforeseen")


def test_what_is_lost_without_npm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = [one for one in checks.CHECKS if one.name == "Claude CLI"]
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = check.look(State(tmp_path / "state"))
    assert (outcome.status, "node and npm missing" in outcome.found) == ("warn", True)
    assert "the Claude CLI" in outcome.found
    assert "apt-get install -y nodejs npm" in outcome.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user needs no users for sandboxes")
def test_doctor_in_a_namespace_of_one_id_names_it(place: Path) -> None:
    """It must not take a refusal of the kernel for a fault of the machine."""
    command = ["unshare", "-Ur", *WORKBENCH, "doctor", "--json"]
    env = {**os.environ, STATE_VARIABLE: str(place / "state")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    if not done.stdout:
        pytest.skip(f"this machine lets nobody make a user namespace: {done.stderr}")
    failed = {one["name"]: one for one in json.loads(done.stdout)["checks"] if one["status"] == "fail"}
    assert "user namespace with a single id" in failed["isolation"]["found"]
    assert "Run it outside of that namespace" in failed["isolation"]["fix"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hides directories of the system from one command")
def test_a_machine_without_any_pip_is_told_what_its_images_lack(place: Path) -> None:
    """A base is a copy of this machine's packages: what is not here cannot be in it."""
    brought = importlib.util.find_spec("ensurepip")
    assert brought is not None
    assert brought.origin is not None
    hidden = (
        Path(brought.origin).parent / "_bundled",
        Path("/usr/lib/python3/dist-packages"),
        Path("/usr/share/python-wheels"),
    )
    hides = "".join(f"mount -t tmpfs none {shlex.quote(str(path))}\n" for path in hidden if path.is_dir())
    script = f"{hides}exec {shlex.join([*WORKBENCH, 'doctor', '--json'])}"
    env = {**os.environ, STATE_VARIABLE: str(place / "state")}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    (roots,) = [one for one in json.loads(done.stdout)["checks"] if one["name"] == "root file systems"]
    assert (roots["status"], "have no pip" in roots["found"]) == ("warn", True)
    assert roots["fix"].endswith("apt-get install -y python3-pip")

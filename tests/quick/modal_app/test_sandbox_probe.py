"""The command that makes a sandbox ready: Modal runs it as root, the local cloud as a user who is none."""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modal_app.sandboxes import git_defaults, project_sandbox

_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


def _said(*before: str, workspace: Path | None = None, path: str = os.defpath) -> "re.Match[bytes]":
    probe = project_sandbox.PROBE.replace(project_sandbox.WORKSPACE, str(workspace or "/no/such/directory"))
    settings = (git_defaults.CONFIG, "/dev/null", project_sandbox.WRITE_SET)
    command = [*before, "sh", "-c", probe, "sh", project_sandbox.UNLOCK, *settings, *project_sandbox.AS_JOB]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, "PATH": path})
    said = project_sandbox.PROBED.fullmatch(run.stdout)
    assert said is not None
    return said


def _probe(*before: str) -> tuple[bool, int, float]:
    said = _said(*before)
    return said[1] is not None, int(said[2]), float(said[4])


@pytest.fixture
def workspace() -> Iterator[Path]:
    """A directory that the job's user can reach, with files whose names look like locks and are none."""
    with tempfile.TemporaryDirectory(prefix="workbench-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        for kept in ("uv.lock", "a b/Cargo.lock", "gc.pid", "x.lock/inside"):
            (directory / kept).parent.mkdir(exist_ok=True)
            (directory / kept).touch()
        yield directory


def test_root_becomes_the_job_s_user_and_others_stay_who_they_are() -> None:
    if os.geteuid() == 0:
        assert _probe()[:2] == (True, project_sandbox.JOB_UID)
        assert _probe(*_NOBODY)[:2] == (False, 65534)
    else:
        assert _probe()[:2] == (False, os.geteuid())


def test_the_sandbox_s_clock_is_told() -> None:
    assert abs(_probe()[2] - time.time()) < 60


@pytest.mark.parametrize("lock", [".git/index.lock", "deep/er/.git/refs/heads/main.lock", "bare/gc.pid"])
def test_only_the_locks_of_git_are_removed(workspace: Path, lock: str) -> None:
    for name in ("bare/objects", "bare/refs"):
        (workspace / name).mkdir(parents=True)
    (workspace / "bare/HEAD").write_text("ref: refs/heads/main\n")
    (workspace / lock).parent.mkdir(parents=True, exist_ok=True)
    (workspace / lock).touch()
    before = {path for path in workspace.rglob("*") if path != workspace / lock}
    assert json.loads(_said(workspace=workspace)[3]) == {"removed": 1, "first": [lock]}
    assert set(workspace.rglob("*")) == before


def test_an_interpreter_is_started_only_where_something_has_the_name_of_a_lock(workspace: Path) -> None:
    """It takes longer than everything else that a run does before its job."""
    programs = workspace / "programs"
    programs.mkdir()
    (programs / "python3").write_text("#!/bin/sh\necho '{}'\n")
    (programs / "python3").chmod(0o755)
    path = f"{programs}:{os.defpath}"
    assert _said(workspace=workspace, path=path)[3] == b"{}\n"
    for name in ("uv.lock", "a b/Cargo.lock", "gc.pid"):
        (workspace / name).unlink()
    assert _said(workspace=workspace, path=path)[3] is None

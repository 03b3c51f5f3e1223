"""The program that changes a project's files: wholly or not at all, also when it is killed at any of its steps."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from modal_app.actions import files_action
from modal_app.contract.requests import FileContent, FilesWrite
from modal_app.sandboxes.project_sandbox import WRITE_SET, OnOutput
from workbench.local_cloud import system_python

KILLED = 9
# Ends the program before its step of this number.
DYING = f"""
import os, sys
left = int(sys.argv.pop(1))
def dies(event, given):
    global left
    if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir") or (event == "open" and given[2] & os.O_CREAT):
        left -= 1
        if left == 0:
            os._exit({KILLED})
sys.addaudithook(dies)
"""
FILES: list[dict[str, Any]] = [
    {"path": "kept", "data": "bmV3"},
    {"path": "fresh/deep/file", "data": "bmV3"},
    {"path": "d/x", "data": "bmV3"},
]
WRITE = {"op": "write", "files": FILES, "hold": False}
BEFORE = {"kept": "old", "d/x": "old", "d/y": "old"}
AFTER = {"kept": "new", "d/x": "new", "d/y": "old", "fresh/deep/file": "new"}
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


def run(root: Path, *arguments: str, asked: object = None, dies_at: int = 0, before: Sequence[str] = ()) -> int:
    program = DYING + WRITE_SET if dies_at else WRITE_SET
    words = [str(dies_at)] * bool(dies_at) + [str(root), *arguments]
    python = system_python() if before else sys.executable  # the tests' own may lie where nobody else may look
    assert python is not None
    done = subprocess.run(
        [*before, python, "-I", "-c", program, *words], input=json.dumps(asked).encode(), capture_output=True
    )
    return done.returncode


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in BEFORE.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_a_change_that_is_killed_at_any_step_is_taken_back_or_whole(root: Path) -> None:
    """Also when what takes it back is killed, too."""
    found, steps = [], 0
    while True:
        steps += 1
        code = run(root, asked=WRITE, dies_at=steps)
        if code != KILLED:
            break
        run(root, "recover", dies_at=1 + steps % 4)
        assert run(root, "recover") == 0
        found.append(files(root))
        assert list(root.glob(".workbench-*")) == []
        assert run(root, asked={"op": "delete", "path": "fresh"}) in (0, 3)
        for path, text in BEFORE.items():
            (root / path).write_text(text)
    assert code == 0
    assert steps > 10
    assert all(one in (BEFORE, AFTER) for one in found), found
    assert BEFORE in found
    assert files(root) == AFTER


def test_what_a_killed_move_has_moved_is_never_removed(root: Path) -> None:
    """It is at one of the two places, whole, whenever the program is killed."""
    steps, code = 0, KILLED
    while code == KILLED:
        steps += 1
        code = run(root, asked={"op": "move", "path": "d", "to": "new/deep/d"}, dies_at=steps)
        assert run(root, "recover") == 0
        moved = files(root) == {"kept": "old", "new/deep/d/x": "old", "new/deep/d/y": "old"}
        assert moved or files(root) == BEFORE
        assert list(root.glob(".workbench-*")) == []
        if moved and code == KILLED:
            (root / "new/deep/d").rename(root / "d")
            (root / "new/deep").rmdir()
            (root / "new").rmdir()
    assert (code, steps > 5) == (0, True)


def test_a_change_that_waits_for_its_commit_is_taken_back_and_a_final_one_stays(root: Path) -> None:
    assert run(root, asked={**WRITE, "hold": True}) == 0
    [held] = [path.name for path in root.glob(".workbench-*")]
    assert run(root, "settle", held) == 0
    assert run(root, "recover") == 0
    assert files(root) == AFTER
    other = [{"path": "kept", "data": base64.b64encode(b"newer").decode()}]
    assert run(root, asked={"op": "write", "files": other, "hold": True}) == 0
    assert run(root, "recover") == 0
    assert files(root) == AFTER


@pytest.mark.parametrize("head", ["a branch", "no branch", "a packed branch"])
def test_a_change_whose_commit_was_made_is_taken_back_with_it(root: Path, head: str) -> None:
    """A branch that goes on to a commit whose files are gone would show them as deleted."""

    def git(*arguments: str) -> str:
        names = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        return subprocess.run(["git", *names, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    first = git("rev-parse", "HEAD")
    if head == "no branch":
        git("checkout", "-q", "--detach")
    elif head == "a packed branch":
        git("checkout", "-q", "-b", "feat/x")
        git("pack-refs", "--all")
    assert run(root, asked={**WRITE, "hold": True}) == 0
    git("add", "kept", "d", "fresh")
    git("commit", "-q", "-m", "second")
    assert git("rev-parse", "HEAD") != first
    assert run(root, "recover") == 0
    assert git("rev-parse", "HEAD") == first
    assert git("status", "--porcelain") == ""


def test_a_directory_that_holds_a_read_only_one_is_deleted_wholly() -> None:
    """Go's module cache is made of them."""
    with tempfile.TemporaryDirectory(prefix="workbench-test-") as name:
        root = Path(name)
        (root / "cache/module/deeper").mkdir(parents=True)
        (root / "cache/module/deeper/file").touch()
        as_job = NOBODY if os.geteuid() == 0 else ()
        for one in (root, *root.rglob("*")) if as_job else ():
            os.chown(one, 65534, 65534)
        for path in ("cache/module/deeper", "cache/module"):
            (root / path).chmod(0o555)
        assert run(root, asked={"op": "delete", "path": "cache"}, before=as_job) == 0
        assert list(root.iterdir()) == []


class _Job:
    """A sandbox that is this machine; its first command waits until `go`, and dies at its step `dies_at`."""

    def __init__(self, root: Path, dies_at: int) -> None:
        self.started, self.go = asyncio.Event(), asyncio.Event()
        self._root = root
        self._dies_at = dies_at

    async def exec(self, argv: Sequence[str], *, stdin: bytes, on_output: OnOutput, **_: object) -> int:
        self.started.set()
        await self.go.wait()
        return run(self._root, asked=json.loads(stdin), dies_at=self._dies_at)

    async def aside(self, argv: Sequence[str], **_: object) -> None:
        assert argv[-1] == "recover"
        run(self._root, "recover")


@pytest.mark.parametrize(("dies_at", "left"), [(1000, AFTER), (6, BEFORE)], ids=["ends", "dies"])
async def test_a_run_that_is_cancelled_leaves_its_change_whole_or_none_of_it(
    root: Path, dies_at: int, left: dict[str, str]
) -> None:
    """Its sandbox is terminated next, which commits what is there."""
    job = _Job(root, dies_at)
    data = [(one["path"], base64.b64decode(one["data"]).decode()) for one in FILES]
    written = [FileContent(path=path, content=text) for path, text in data]
    who = "0190b1a4-0000-7000-8000-000000000000"
    request = FilesWrite(user_id=who, project_id=who, action="files", op="write", files=tuple(written))
    changing = asyncio.create_task(files_action.change(request, cast("Any", job), cast("Any", None)))
    await asyncio.wait_for(job.started.wait(), 30)
    changing.cancel()
    job.go.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(changing, 30)
    assert files(root) == left
    assert {name for name in os.listdir(root) if name.startswith(".workbench-")} == set()


@pytest.mark.parametrize("line", ['["../outside", ""]', '["/outside", ""]', "[1, 2]", "garbage", '["a", "../1"]'])
def test_a_journal_that_a_job_has_made_reaches_nothing_outside(tmp_path: Path, line: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    trash = root / ".workbench-0123456789ab"
    trash.mkdir(parents=True)
    outside.write_text("kept")
    (trash / "undo.jsonl").write_text(f"{line}\n")
    assert run(root, "recover") == 0
    assert outside.read_text() == "kept"
    assert list(root.iterdir()) == []

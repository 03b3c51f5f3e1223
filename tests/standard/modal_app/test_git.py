"""Git in projects whose last git was killed, and write sets that git refuses: what a run leaves behind."""

from typing import Any

import pytest

from modal_app.contract.events import DoneEvent, ErrorEvent, StatusEvent
from tests.standard.modal_app.test_actions import act, fails, job
from workbench import Project, Workbench

# What the whole project is: every path, its mode and its content, git's own files too; objects without a name are not.
STATE = """
import hashlib, os, sys
for path, directories, names in sorted(os.walk(".")):
    if path.startswith("./.git/objects/"):
        continue
    print(path)
    for name in sorted(names):
        whole = os.path.join(path, name)
        data = os.readlink(whole) if os.path.islink(whole) else open(whole, "rb").read()
        print(whole, oct(os.lstat(whole).st_mode), hashlib.sha256(repr(data).encode()).hexdigest()[:8])
"""


def said(wb: Workbench, project: Project, action: str, **fields: Any) -> tuple[Any, str]:
    """Run an action that succeeds; its result, and what its statuses said."""
    run = wb.launch(project, action, **fields)
    end = run.wait(60)
    assert isinstance(end, DoneEvent), end
    return end.result, " | ".join(event.message for event in run.events if isinstance(event, StatusEvent))


def test_a_git_that_is_killed_in_its_editor_does_not_wedge_the_project(wb: Workbench, project: Project) -> None:
    act(wb, project, "git", "init")
    act(wb, project, "files", "write", files=[{"path": "a", "content": "1"}], message="first")
    code = """
import os, subprocess
open("a", "w").write("2")
os.environ["GIT_EDITOR"] = "sleep 60 #"
subprocess.run(["git", "commit", "-a"])
"""
    end = wb.launch(project, "python", code=code, timeout_s=2).wait(60)
    assert isinstance(end, ErrorEvent)
    assert end.code == "process_timeout"
    assert wb.volume(project).read(".git/index.lock") is not None  # it is committed, as everything is at the end
    result, told = said(wb, project, "git", op="commit", message="second")
    assert result["changed"]
    assert "locks that a killed git had left were removed: .git/index.lock" in told
    assert "locks" not in said(wb, project, "git", op="status")[1]


@pytest.mark.parametrize(
    "lock", [".git/HEAD.lock", ".git/refs/heads/main.lock", ".git/worktrees/side/index.lock", ".git/config.lock"]
)
def test_any_lock_of_git_is_found_and_told(wb: Workbench, project: Project, lock: str) -> None:
    job(
        wb,
        project,
        f"""
import pathlib, subprocess
def git(*arguments): subprocess.run(["git", *arguments], check=True)
git("init", "-q"); git("commit", "-q", "--allow-empty", "-m", "m"); git("worktree", "add", "-q", "side")
pathlib.Path({lock!r}).touch()
""",
    )
    code = """
import pathlib, subprocess
for where in (".", "side"):
    pathlib.Path(where, "new").write_text("1")
    subprocess.run(["git", "add", "new"], cwd=where, check=True)
    subprocess.run(["git", "commit", "-q", "-m", "n"], cwd=where, check=True)
subprocess.run(["git", "config", "x.y", "z"], check=True)
"""
    assert f"removed: {lock}" in said(wb, project, "python", code=code)[1]


def test_a_sandbox_that_was_made_ahead_finds_the_locks_of_its_own_run(wb: Workbench, project: Project) -> None:
    act(wb, project, "git", "init")
    assert isinstance(wb.launch(project, "prewarm").wait(60), DoneEvent)
    wb.volume(project).write(".git/index.lock", b"")
    _, told = said(wb, project, "files", op="write", files=[{"path": "a", "content": ""}], message="m")
    assert ".git/index.lock" in told


REFUSED_BY_GIT: dict[str, tuple[str, list[dict[str, str]]]] = {
    "a repository without a commit inside": (
        "import subprocess; subprocess.run(['git', 'init', '-q', 'inner'], check=True)",
        [{"path": "inner/x", "content": "1"}, {"path": "deep/er/new", "content": "1"}],
    ),
    "a lock in the set itself": ("", [{"path": ".git/index.lock", "content": ""}, {"path": "new", "content": "1"}]),
    "a reference's lock, behind an index that was written": (
        "",
        [{"path": ".git/refs/heads/main.lock", "content": ""}, {"path": "kept", "content": "new"}],
    ),
    "an index that is none": ("", [{"path": ".git/index", "content": "garbage"}, {"path": "kept", "content": "new"}]),
    "a head that is none": ("", [{"path": ".git/HEAD", "content": "garbage"}, {"path": "kept", "content": "new"}]),
}


# Refused before anything is staged, and behind an index that was written; `tests/nightly` has them all.
CHOSEN = ("a repository without a commit inside", "a reference's lock, behind an index that was written")


@pytest.mark.parametrize("name", CHOSEN)
def test_a_write_set_that_git_refuses_leaves_nothing_behind(wb: Workbench, project: Project, name: str) -> None:
    leaves_nothing_behind(wb, project, name)


def leaves_nothing_behind(wb: Workbench, project: Project, name: str) -> None:
    """Fail unless a write set that git refuses fails, and everything is as before."""
    before, files = REFUSED_BY_GIT[name]
    act(wb, project, "git", "init")
    act(wb, project, "files", "write", files=[{"path": "kept", "content": "old"}], message="first")
    staging = "import subprocess; open('staged', 'w').close(); subprocess.run(['git', 'add', 'staged'], check=True)"
    job(wb, project, f"{before}\n{staging}")
    state = job(wb, project, STATE)
    assert fails(wb, project, "files", "write", files=files, message="m").code == "process_failed"
    assert job(wb, project, STATE) == state


@pytest.mark.parametrize(
    "files",
    [
        [{"path": ".git", "content": "garbage"}, {"path": "a", "content": "1"}],
        [{"path": ".git/config", "content": "[core]\nrepositoryformatversion = 99\n"}, {"path": "b/c", "content": "1"}],
        [{"path": "d", "content": "a directory is here"}, {"path": "e", "content": "1"}],
    ],
    ids=["a file for the repository", "settings that no git reads", "a directory in the way"],
)
def test_where_there_was_no_repository_there_is_none(
    wb: Workbench, project: Project, files: list[dict[str, str]]
) -> None:
    job(wb, project, "import os; os.mkdir('d'); open('d/x', 'w').write('x')")
    state = job(wb, project, STATE)
    fails(wb, project, "files", "write", files=files, message="m")
    assert job(wb, project, STATE) == state


def test_a_write_set_whose_git_does_not_end_leaves_nothing_behind(wb: Workbench, project: Project) -> None:
    """Also what git has begun: its lock, its index."""
    act(wb, project, "files", "write", files=[{"path": "kept", "content": "old"}], message="first")
    pattern = "/".join(["**", "a"] * 14) + "/**/b"  # git tries them for minutes
    files = [
        {"path": "kept", "content": "new"},
        {"path": "/".join(["a"] * 30 + ["f"]), "content": "1"},
        {"path": ".gitignore", "content": pattern},
    ]
    end = fails(wb, project, "files", "write", files=files, message="m", timeout_s=1)
    assert end.code == "process_timeout", end
    assert act(wb, project, "files", "read", path="kept")["content"] == "old"
    names = {entry["path"] for entry in act(wb, project, "files", "list", path=".git")["entries"]}
    assert ".git/index.lock" not in names


COMMIT = """
import subprocess
def git(*arguments): return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout
{before}
git("init"); open("a", "w").write("1"); git("add", "a"); git("commit", "-m", "m")
print(git("log", "-1", "--format=%an <%ae> by %cn <%ce>").strip(), "on", git("branch", "--show-current").strip())
"""
OURS = "workbench <workbench@localhost>"


@pytest.mark.parametrize(
    ("before", "who"),
    [
        ("", f"{OURS} by {OURS} on main"),
        ("import os; os.environ['HOME'] = '/workspace'", f"{OURS} by {OURS} on main"),
        (
            "git('config', '--global', 'user.name', 'Own')",
            "Own <workbench@localhost> by Own <workbench@localhost> on main",
        ),
        (
            "import os; os.environ.update(GIT_AUTHOR_NAME='A', GIT_AUTHOR_EMAIL='a@a')",
            f"A <a@a> by {OURS} on main",
        ),
        (
            "git('init', '-b', 'trunk'); git('config', 'user.name', 'R'); git('config', 'user.email', 'r@r')",
            "R <r@r> by R <r@r> on trunk",
        ),
    ],
    ids=["nothing set", "another home", "a setting of its own", "an environment of its own", "a repository's own"],
)
def test_a_job_s_git_has_a_name_and_what_the_job_sets_wins(
    wb: Workbench, project: Project, before: str, who: str
) -> None:
    assert job(wb, project, COMMIT.format(before=before)) == f"{who}\n"


def test_all_actions_commit_to_one_history_under_one_name(wb: Workbench, project: Project) -> None:
    job(wb, project, COMMIT.format(before=""))
    act(wb, project, "files", "write", files=[{"path": "b", "content": "1"}], message="of a write set")
    act(wb, project, "files", "write", files=[{"path": "c", "content": "1"}])
    act(wb, project, "git", "commit", message="of an action")
    entries = act(wb, project, "git", "log")["entries"]
    assert [entry["subject"] for entry in entries] == ["of an action", "of a write set", "m"]
    assert {(entry["author"], entry["email"]) for entry in entries} == {("workbench", "workbench@localhost")}
    assert job(wb, project, "import subprocess; subprocess.run(['git', 'branch', '--show-current'])") == "main\n"

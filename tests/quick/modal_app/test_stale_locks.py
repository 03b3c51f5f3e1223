"""What a killed git leaves is removed, wherever git makes it, and nothing else is. Real git makes the repositories."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modal_app.sandboxes.project_sandbox import UNLOCK, StaleLocks


def git(where: Path, *arguments: str) -> None:
    names = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
    for who in ("AUTHOR", "COMMITTER"):
        names |= {f"GIT_{who}_NAME": "t", f"GIT_{who}_EMAIL": "t@localhost"}
    subprocess.run(["git", *arguments], cwd=where, check=True, capture_output=True, env=names)


def unlock(root: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-I", "-c", UNLOCK, str(root)], check=True, capture_output=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A project that is a repository with a commit, a worktree, a repository inside and a bare one."""
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "m")
    git(tmp_path, "worktree", "add", "-q", "-b", "side", "tree")
    git(tmp_path, "init", "-q", "inner")
    git(tmp_path, "init", "-q", "--bare", "store")
    return tmp_path


@pytest.mark.parametrize(
    "lock",
    [
        ".git/index.lock",
        ".git/HEAD.lock",
        ".git/config.lock",
        ".git/packed-refs.lock",
        ".git/refs/heads/main.lock",
        ".git/refs/remotes/origin/deep/er.lock",
        ".git/worktrees/tree/index.lock",
        ".git/worktrees/tree/HEAD.lock",
        ".git/objects/info/commit-graph.lock",
        ".git/next-index-4711.lock",
        ".git/gc.pid",
        "inner/.git/index.lock",
        "store/packed-refs.lock",
        "store/refs/heads/main.lock",
        ".git/refs/heads/hooks/main.lock",
        ".git/worktrees/lfs/index.lock",
        ".git/modules/annex/index.lock",
        "store/refs/tags/lfs/v1.lock",
    ],
)
def test_a_lock_goes_and_the_rest_stays(repository: Path, lock: str) -> None:
    before = files(repository)
    (repository / lock).parent.mkdir(parents=True, exist_ok=True)
    (repository / lock).touch()
    assert unlock(repository) == {"removed": 1, "first": [lock]}
    assert files(repository) == before
    assert unlock(repository) == {"removed": 0, "first": []}


def test_a_git_that_was_killed_as_it_made_the_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD.lock").touch()
    assert unlock(tmp_path)["removed"] == 1
    git(tmp_path, "init", "-q")


def test_locks_of_others_are_theirs(repository: Path) -> None:
    """A lock file of a package manager is work; so is what stands beside a repository, or in its hooks."""
    kept = ["yarn.lock", "poetry.lock", "tree/Cargo.lock", "inner/flake.lock", "gc.pid", ".git/hooks/mine.lock"]
    for path in [*kept, "looks/HEAD", "looks/x.lock"]:
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).touch()
    for directory in ("looks/objects", "looks/refs"):  # no repository: its HEAD says nothing
        (repository / directory).mkdir()
    git(repository, "worktree", "lock", "tree")
    before = files(repository)
    assert unlock(repository)["removed"] == 0
    assert files(repository) == before


def test_no_link_is_followed_and_no_depth_is_too_much(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "index.lock").touch()
    (repository / ".git/outside").symlink_to(outside)
    (repository / "link").symlink_to(repository)
    (repository / ".git/refs/heads/dangling.lock").symlink_to("nowhere")
    here = os.open(repository, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert unlock(repository) == {"removed": 1, "first": [".git/refs/heads/dangling.lock"]}
    assert (outside / "index.lock").exists()
    subprocess.run(["rm", "-rf", str(repository / "d")], check=True)


def test_names_that_are_not_text_are_told_on_one_line(repository: Path) -> None:
    with open(os.fsencode(repository) + b"/.git/refs/heads/\xff\n.lock", "wb"):
        pass
    said = str(StaleLocks.model_validate_json(json.dumps(unlock(repository))))
    assert said == r"locks that a killed git had left were removed: .git/refs/heads/\xff\n.lock"


def test_many_are_counted_and_the_first_are_named() -> None:
    assert str(StaleLocks(removed=7, first=("a.lock", "b.lock"))).endswith("removed: a.lock, b.lock and 5 more")

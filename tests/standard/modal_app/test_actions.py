"""The actions `git` and `files` through the endpoint, with the projects of hostile jobs."""

import base64
import io
from typing import Any

import modal
import pytest

from modal_app.actions import files_action
from modal_app.contract.errors import ContractError
from modal_app.contract.events import DoneEvent, ErrorEvent
from modal_app.contract.requests import FilesList, FilesRead
from modal_app.sandboxes.fleet import sub_path
from workbench import Project, Workbench
from workbench.local_cloud import Running


def act(wb: Workbench, project: Project, action: str, op: str, **fields: Any) -> Any:
    """Run an action and return its result."""
    end = wb.launch(project, action, op=op, **fields).wait(60)
    assert isinstance(end, DoneEvent), end
    return end.result


def fails(wb: Workbench, project: Project, action: str, op: str, **fields: Any) -> ErrorEvent:
    """Run an action that is refused."""
    end = wb.launch(project, action, op=op, **fields).wait(60)
    assert isinstance(end, ErrorEvent), end
    return end


def job(wb: Workbench, project: Project, code: str) -> str:
    """Run a Python job and return what it printed."""
    run = wb.launch(project, "python", code=code)
    assert isinstance(run.wait(60), DoneEvent), run.text("stderr")
    return run.text()


def test_git_from_init_to_restore(wb: Workbench, project: Project) -> None:
    assert act(wb, project, "git", "init") == {"branch": "main", "commit": None}
    assert act(wb, project, "git", "log") == {"entries": []}
    act(wb, project, "files", "write", files=[{"path": "a b/ü.txt", "content": "one\n"}])
    status = act(wb, project, "git", "status")
    assert not status["clean"]
    assert status["entries"] == [{"path": "a b/ü.txt", "index": "?", "worktree": "?"}]
    first = act(wb, project, "git", "commit", message="first\n\nbody with $(touch x) `y`")
    assert first["changed"]
    assert act(wb, project, "git", "commit", message="again") == {"commit": first["commit"], "changed": False}
    second = act(wb, project, "files", "write", files=[{"path": "a b/ü.txt", "content": "two\n"}], message="second")
    log = act(wb, project, "git", "log", limit=10)["entries"]
    assert [entry["subject"] for entry in log] == ["second", "first"]
    assert log[0]["parents"] == [first["commit"]]
    patch = act(wb, project, "git", "diff", base=first["commit"], head=second["commit"])["patch"]
    assert "-one\n+two\n" in patch
    act(wb, project, "git", "restore", commit=first["commit"][:10], paths=["a b/ü.txt"])
    assert act(wb, project, "files", "read", path="a b/ü.txt")["content"] == "one\n"
    assert "+one" in act(wb, project, "git", "diff")["patch"]


def test_git_names_what_is_not_there(wb: Workbench, project: Project) -> None:
    assert fails(wb, project, "git", "status").code == "process_failed"
    act(wb, project, "git", "init")
    assert fails(wb, project, "git", "restore", commit="deadbeef").code == "not_found"
    assert fails(wb, project, "git", "diff", base="a" * 40).code == "not_found"


def test_a_repository_cannot_make_git_run_its_programs(wb: Workbench, project: Project) -> None:
    """Hooks, monitors, external diffs and editors of a hostile repository stay silent."""
    act(wb, project, "git", "init")
    job(
        wb,
        project,
        """
import os, pathlib, stat, subprocess
trap = pathlib.Path("trap.sh"); trap.write_text("#!/bin/sh\\necho sprung >> /workspace/sprung\\ncat\\n")
trap.chmod(0o755)
hooks = pathlib.Path(".git/hooks"); hooks.mkdir(exist_ok=True)
for name in ("pre-commit", "post-commit", "commit-msg", "prepare-commit-msg", "post-index-change", "post-checkout"):
    (hooks / name).write_text(trap.read_text()); (hooks / name).chmod(0o755)
path = "/workspace/trap.sh"
with open(".git/config", "a") as config:
    config.write(f"[core]\\n fsmonitor = {path}\\n pager = {path}\\n editor = {path}\\n")
    config.write(" hooksPath = /workspace/.git/hooks\\n")
    config.write(f"[diff]\\n external = {path}\\n[gpg]\\n program = {path}\\n[commit]\\n gpgSign = true\\n")
    config.write(f"[pager]\\n log = {path}\\n diff = {path}\\n status = {path}\\n")
""",
    )
    act(wb, project, "git", "status")
    commit = act(wb, project, "git", "commit", message="m")["commit"]
    act(wb, project, "git", "log")
    act(wb, project, "git", "diff")
    act(wb, project, "git", "restore", commit=commit)
    assert "sprung" not in {entry["path"] for entry in act(wb, project, "files", "list")["entries"]}


def test_files_from_writing_to_deleting(wb: Workbench, project: Project) -> None:
    assert act(wb, project, "files", "list") == {"path": "", "entries": []}
    raw = bytes(range(256))
    written = act(
        wb,
        project,
        "files",
        "write",
        files=[
            {"path": "docs/読み.md", "content": "# é\n"},
            {"path": "raw.bin", "content": base64.b64encode(raw).decode(), "encoding": "base64"},
            {"path": "empty", "content": ""},
        ],
    )
    assert written["written"][0] == {"path": "docs/読み.md", "size": 5}
    listed = {entry["path"]: entry for entry in act(wb, project, "files", "list")["entries"]}
    assert {path: entry["type"] for path, entry in listed.items()} == {
        "docs": "directory",
        "docs/読み.md": "file",
        "raw.bin": "file",
        "empty": "file",
    }
    assert [entry["path"] for entry in act(wb, project, "files", "list", path="docs")["entries"]] == ["docs/読み.md"]
    read = act(wb, project, "files", "read", path="raw.bin")
    assert (read["encoding"], base64.b64decode(read["content"])) == ("base64", raw)
    assert act(wb, project, "files", "read", path="docs/読み.md")["content"] == "# é\n"
    act(wb, project, "files", "move", path="docs", to="deep/er")
    act(wb, project, "files", "delete", path="raw.bin")
    assert {entry["path"] for entry in act(wb, project, "files", "list")["entries"]} == {
        "deep",
        "deep/er",
        "deep/er/読み.md",
        "empty",
    }


def test_a_write_set_is_all_or_nothing(wb: Workbench, project: Project) -> None:
    act(wb, project, "files", "write", files=[{"path": "kept", "content": "old"}, {"path": "d/x", "content": ""}])
    error = fails(
        wb,
        project,
        "files",
        "write",
        files=[
            {"path": "kept", "content": "new"},
            {"path": "fresh/deep/file", "content": "new"},
            {"path": "d", "content": "a directory is here"},
        ],
    )
    assert error.code == "invalid_request"
    assert act(wb, project, "files", "read", path="kept")["content"] == "old"
    assert [entry["path"] for entry in act(wb, project, "files", "list")["entries"]] == ["d", "d/x", "kept"]


async def test_only_what_is_listed_counts(cloud: Running, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the commits of a project nor the files beside the one that is read take anything away from it."""
    monkeypatch.setattr(files_action, "MAX_LIST_ENTRIES", 12)
    volume = modal.Volume.from_name("listed", create_if_missing=True, version=2)
    root = sub_path(project.user_id, project.project_id)
    async with volume.batch_upload.aio() as batch:
        for number in range(10):
            batch.put_file(io.BytesIO(b"git"), f"{root}/.git/{number}")
            batch.put_file(io.BytesIO(b"%d" % number), f"{root}/data/{number}")
    who = {"user_id": project.user_id, "project_id": project.project_id, "action": "files"}
    listed: Any = await files_action.read(FilesList(**who, op="list"), volume)
    assert [entry["path"] for entry in listed["entries"]] == ["data", *(f"data/{number}" for number in range(10))]
    monkeypatch.setattr(files_action, "MAX_LIST_ENTRIES", 5)
    found: Any = await files_action.read(FilesRead(**who, op="read", path="data/7"), volume)
    assert found["content"] == "7"
    with pytest.raises(ContractError, match="more than 5 entries"):
        await files_action.read(FilesList(**who, op="list"), volume)


@pytest.mark.parametrize(
    ("op", "fields", "code"),
    [
        ("read", {"path": "nothing"}, "not_found"),
        ("read", {"path": "d"}, "invalid_request"),
        ("read", {"path": "d/x/y"}, "invalid_request"),
        ("list", {"path": "nothing"}, "not_found"),
        ("delete", {"path": "nothing"}, "not_found"),
        ("move", {"path": "nothing", "to": "b"}, "not_found"),
        ("move", {"path": "d", "to": "kept"}, "invalid_request"),
    ],
)
def test_what_cannot_be_done_is_told(
    wb: Workbench, project: Project, op: str, fields: dict[str, str], code: str
) -> None:
    act(wb, project, "files", "write", files=[{"path": "kept", "content": ""}, {"path": "d/x", "content": ""}])
    assert fails(wb, project, "files", op, **fields).code == code


def test_no_link_is_followed_in_or_out(wb: Workbench, project: Project) -> None:
    """A job may leave links that point anywhere; neither reading nor writing goes through them."""
    job(
        wb,
        project,
        """
import os
os.mkdir('inside'); open('inside/secret', 'w').write('s')
os.symlink('/etc/passwd', 'file'); os.symlink('/etc', 'dir'); os.symlink('../..', 'up'); os.symlink('inside', 'near')
os.symlink('nowhere', 'dangling'); os.symlink('loop', 'loop')
""",
    )
    for path in ("file", "dir/passwd", "up/projects", "near/secret", "dangling", "loop", "loop/x"):
        assert fails(wb, project, "files", "read", path=path).code == "invalid_request", path
    for path in ("file", "dir/x", "up/x", "near/new", "dangling", "loop/x"):
        error = fails(wb, project, "files", "write", files=[{"path": path, "content": "x"}])
        assert error.code == "invalid_request", path
    assert fails(wb, project, "files", "delete", path="near/secret").code == "invalid_request"
    assert fails(wb, project, "files", "move", path="inside/secret", to="near/moved").code == "invalid_request"
    kinds = {entry["path"]: entry["type"] for entry in act(wb, project, "files", "list")["entries"]}
    assert kinds["file"] == kinds["dir"] == kinds["near"] == "link"
    act(wb, project, "files", "delete", path="near")
    assert act(wb, project, "files", "read", path="inside/secret")["content"] == "s"


def test_files_that_cannot_be_read_now_can_be_read_later(wb: Workbench, project: Project) -> None:
    with wb.faults.injected(rpc="VolumeListFiles*", status="INTERNAL"):
        end = fails(wb, project, "files", "list")
    assert (end.code, end.recoverable) == ("sandbox_unavailable", True)
    act(wb, project, "files", "list")

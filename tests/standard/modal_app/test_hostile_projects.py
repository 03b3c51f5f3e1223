"""What a job leaves in its project must not run, or lead anywhere, on the host's side."""

from pathlib import Path

import modal
import pytest

from tests.support.commands import Cli
from workbench import Project, Workbench
from workbench.local_cloud.process.state_directory import State

# Git runs these programs where somebody asks for a status, a diff or a log in such a repository.
PLANT = """
import os, pathlib, subprocess
subprocess.run(["git", "init", "-q", "."], check=True)
script = pathlib.Path("script.sh").absolute()
script.write_text("#!/bin/sh\\ntouch {marker} /workspace/ran\\n")
script.chmod(0o755)
for name in ("core.fsmonitor", "core.pager", "core.editor", "diff.external", "core.sshCommand", "credential.helper"):
    subprocess.run(["git", "config", name, str(script)], check=True)
for hook in ("pre-commit", "post-checkout", "post-index-change", "reference-transaction"):
    target = pathlib.Path(".git/hooks", hook)
    target.parent.mkdir(exist_ok=True)
    target.write_text(script.read_text())
    target.chmod(0o755)
os.symlink("{outside}", "link")
os.symlink("/", "root")
os.symlink("..", "up")
pathlib.Path(".git/config.worktree").symlink_to("{outside}")
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    tmp_path.chmod(0o777)
    return tmp_path / "ran-on-the-host"


def test_planted_git_configuration_runs_nothing_on_the_host(
    wb: Workbench, modal_cli: Cli, project: Project, marker: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("the host's own")
    code = PLANT.replace("{marker}", str(marker)).replace("{outside}", str(outside))
    planted = wb.launch(project, "python", code=code).wait()
    assert planted.type == "done", planted
    for action, fields in (
        ("git", {"op": "status"}),
        ("git", {"op": "commit", "message": "x"}),
        ("git", {"op": "diff"}),
        ("git", {"op": "log"}),
        ("files", {"op": "list"}),
        ("files", {"op": "write", "files": [{"path": "new", "content": "1"}], "message": "y"}),
    ):
        wb.launch(project, action, **fields).wait()
    volume = wb.volume(project)
    assert "script.sh" in volume.tree()
    got = tmp_path / "got"
    path = f"projects/{project.user_id}/{project.project_id}"
    modal_cli("volume", "get", f"{wb.app_name}-projects", path, str(got), check=False)
    assert not marker.exists()


@pytest.mark.parametrize("path", ["link", "root/etc/passwd", "up/up/etc/passwd"])
def test_links_out_of_a_project_are_not_followed(wb: Workbench, project: Project, tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("the host's own")
    code = f"import os\nos.symlink({str(outside)!r}, 'link'); os.symlink('/', 'root'); os.symlink('..', 'up')"
    assert wb.launch(project, "python", code=code).wait().type == "done"
    end = wb.launch(project, "files", op="read", path=path).wait()
    assert end.type == "error"
    assert end.code in ("invalid_request", "not_found")
    with pytest.raises((FileNotFoundError, IsADirectoryError)):
        wb.volume(project).read(path)
    volume = modal.Volume.from_name(f"{wb.app_name}-projects")
    with pytest.raises(modal.exception.Error):
        list(volume.read_file(f"projects/{project.user_id}/{project.project_id}/link"))


def test_what_a_run_did_not_commit_is_gone_with_its_mount(wb: Workbench, project: Project, state: State) -> None:
    """A working copy may serve a project's next run: with what is committed in it, and nothing else."""
    code = "import os, socket; open('f', 'w').write('kept'); socket.socket(socket.AF_UNIX).bind('s'); os.link('f', 'g')"
    assert wb.launch(project, "python", code=code).wait().type == "done"
    assert [path for path in (state.root / "run").rglob("*") if path.name in ("f", "g", "s")] == []
    listed = wb.launch(project, "python", code="import os; print(sorted(os.listdir()), os.stat('f').st_nlink)")
    assert listed.wait().type == "done"
    assert listed.text() == "['f', 'g'] 1\n"

"""What a notebook that papermill has run keeps of the widgets: their last state, as HTML and as text."""

from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.support.kernels import warm_kernels
from workbench import Project, Workbench
from workbench.notebook_suite import Ran, write_html
from workbench.notebooks import run

CELLS = (
    "import workbench\nfrom workbench.widgets import DeployPanel, RunsTable\nwb = workbench.connect(app_name={app!r})",
    "wb.volume(workbench.Project({user!r}, {project!r})).browse()",
    "RunsTable(wb, project={project!r})",
    "DeployPanel(wb)",
    "wb.compare({run_id!r}, {run_id!r})",
)


LIVE = (
    "import workbench\nfrom workbench.widgets import Launcher\nwb = workbench.connect(app_name={app!r})",
    "run = wb.launch(workbench.Project({user!r}, {project!r}), 'python', code={code!r})\nrun.view()",
    "launcher = Launcher(wb)\nlauncher",
    "started = launcher.launch(workbench.Project.new(), 'python', code={code!r})",
    "run.wait()",
    "started.wait()",
)
CODE = "import time; time.sleep(1); print('said <b>'); raise ValueError('the reason')"


@pytest.fixture(autouse=True)
def _with_warm_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name, value in warm_kernels(tmp_path_factory.mktemp("jupyter")).items():
        monkeypatch.setenv(name, value)


def saved(wb: Workbench, project: Project, cells: Sequence[str], tmp_path: Path, **words: str) -> NotebookNode:
    """The notebook of these cells as papermill has saved it."""
    words |= {"app": wb.app_name, "user": project.user_id, "project": project.project_id}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.format(**words)) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "widgets.ipynb")
    return nbformat.read(run(tmp_path / "widgets.ipynb", output_dir=tmp_path / "done").output, as_version=4)


def shown(notebook: NotebookNode) -> list[NotebookNode]:
    """The first output of each cell that has one."""
    return [next(out.data for out in cell.outputs if "data" in out) for cell in notebook.cells if cell.outputs]


@pytest.mark.timeout(300)
def test_what_changed_after_it_was_displayed_is_kept_as_it_is_at_last(
    wb: Workbench, project: Project, tmp_path: Path
) -> None:
    notebook = saved(wb, project, LIVE, tmp_path, code=CODE)
    reason = "ValueError: the reason"
    for data in shown(notebook)[:2]:
        assert f"error, {reason}, process_failed: the program ended with exit code 1" in data["text/plain"]
        assert "✓ one_end" in data["text/plain"]
        assert "said &lt;b&gt;" in data["text/html"]
        assert "waiting" not in data["text/plain"]
    models = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    views = [model["state"] for model in models if "reconnects" in model["state"]]
    assert len(views) == 2
    for view in views:
        assert (view["condition"], view["exit_code"]) == ("error", 1)
        assert view["reason"] == reason
        assert view["event_count"] > 5
        assert view["proof"]
        assert all(check["ok"] for check in view["proof"])
    ran = Ran("widgets", seconds=1, output=tmp_path / "done" / "widgets.ipynb")
    write_html([ran], tmp_path)
    page = (tmp_path / "widgets.html").read_text()
    assert page.count(reason) >= 2
    assert "said &lt;b&gt;" in page


@pytest.mark.timeout(300)
def test_papermill_keeps_what_the_widgets_showed(wb: Workbench, project: Project, tmp_path: Path) -> None:
    job = wb.launch(project, "python", code="open('<b>kept.txt', 'w').write('x'); print('said')")
    job.wait()
    wb.runs.get(job.run_id, wait_s=30)
    done = saved(wb, project, CELLS, tmp_path, run_id=job.run_id)
    browser, runs, deployed, compared = ((data["text/html"], data["text/plain"]) for data in shown(done))
    assert "&lt;b&gt;kept.txt" in browser[0]
    assert "<b>kept.txt  1 B" in browser[1]
    assert all(job.run_id in text for text in runs), runs
    assert all("deployed, v" in text and "healthy" in text for text in deployed)
    assert all("equal lines" in text and job.run_id in text for text in compared)


CHECKED = (
    "import workbench\nfrom workbench.views import view_of\nwb = workbench.connect(app_name={app!r})\nseen = []",
    "report = wb.check(on_line=lambda line: seen.append(line.name))\nreport",
    "report",
    "try:\n    wb.check(through='http://127.0.0.1:9')\nexcept workbench.WorkbenchError as e:\n    seen.append(e)",
    "assert seen[:-1] == [line.name for line in report.lines]",
)


@pytest.mark.timeout(300)
def test_a_check_is_shown_line_by_line_and_once_in_its_cell(wb: Workbench, project: Project, tmp_path: Path) -> None:
    notebook = saved(wb, project, CHECKED, tmp_path)
    checked, again, broken = [
        [out.data for out in cell.outputs if "data" in out] for cell in notebook.cells if cell.outputs
    ]
    [live] = checked  # the report, which is the value of the cell, is not drawn below it once more
    for shown in (live, *again):
        assert "streaming end to end" in shown["text/plain"]
        assert "verdict  sound" in shown["text/plain"]
        assert "<th style='text-align:left'>measured</th>" in shown["text/html"]
    assert len(again) == 1
    assert "broken off" in broken[0]["text/plain"]
    assert "does not answer" in broken[0]["text/plain"]

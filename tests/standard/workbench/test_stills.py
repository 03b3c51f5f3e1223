"""What a notebook that papermill has run keeps of the widgets: their last state, as HTML and as text."""

from pathlib import Path

import nbformat
import pytest

from workbench import Project, Workbench
from workbench.notebooks import run

CELLS = (
    "import workbench\nfrom workbench.widgets import DeployPanel, RunsTable\nwb = workbench.connect(app_name={app!r})",
    "wb.volume(workbench.Project({user!r}, {project!r})).browse()",
    "RunsTable(wb, project={project!r})",
    "DeployPanel(wb)",
    "wb.compare({run_id!r}, {run_id!r})",
)


@pytest.mark.timeout(300)
def test_papermill_keeps_what_the_widgets_showed(wb: Workbench, project: Project, tmp_path: Path) -> None:
    job = wb.launch(project, "python", code="open('<b>kept.txt', 'w').write('x'); print('said')")
    job.wait()
    wb.runs.get(job.run_id, wait_s=30)
    words = {"app": wb.app_name, "user": project.user_id, "project": project.project_id, "run_id": job.run_id}
    cells = [nbformat.v4.new_code_cell(cell.format(**words)) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "widgets.ipynb")
    done = nbformat.read(run(tmp_path / "widgets.ipynb", output_dir=tmp_path / "done").output, as_version=4)
    shown = [next(out.data for out in cell.outputs if "data" in out) for cell in done.cells if cell.outputs]
    browser, runs, deployed, compared = ((data["text/html"], data["text/plain"]) for data in shown)
    assert "&lt;b&gt;kept.txt" in browser[0]
    assert "<b>kept.txt  1 B" in browser[1]
    assert all(job.run_id in text for text in runs), runs
    assert all("deployed, v" in text and "healthy" in text for text in deployed)
    assert all("equal lines" in text and job.run_id in text for text in compared)

"""`workbench.open()`, `%workbench` and JupyterLab's way to it."""

import json
import sys
from pathlib import Path

import modal
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import workbench
from tests.conftest import wait_until
from tests.support.paths import ROOT
from workbench import Project, Workbench
from workbench.local_cloud.process.state_directory import Running
from workbench.widgets import Files, Replay, RunsTable, WorkbenchPanel
from workbench.widgets.workbench_panel import TABS

EXTENSION = ROOT / "workbench" / "labextension"


def test_everything_is_in_one_panel(wb: Workbench) -> None:
    panel = workbench.open(wb)
    assert isinstance(panel, WorkbenchPanel)
    assert [tab["key"] for tab in panel.tabs] == [tab.key for tab in TABS]
    assert set(panel.parts) == {"launch"}  # the others are made when they are opened
    for tab in TABS:
        panel._on_message(panel, {"type": "show", "key": tab.key}, [])
        wait_until(lambda key=tab.key: panel.chosen == key and key in panel.parts, "the tab was not opened")
    panel.show("launch")
    with pytest.raises(KeyError):
        panel.show("nothing")
    data, _ = panel._repr_mimebundle_()
    for tab in TABS:
        assert tab.title in data["text/html"]
        assert tab.title in data["text/plain"]
    panel.close()
    assert wb.endpoint.url  # a connection that was there before stays
    assert panel._repr_mimebundle_()[0]["text/plain"]
    panel.close()


def test_a_run_of_the_table_is_played_in_the_replay_tab(wb: Workbench, project: Project) -> None:
    run = wb.launch(project, "python", code="print(1)")
    run.wait()
    wb.runs.get(run.run_id, wait_s=30)
    panel = workbench.open(wb)
    table, replay = panel.part("runs"), panel.part("replay")
    assert isinstance(table, RunsTable)
    assert isinstance(replay, Replay)
    assert table.can_replay
    table._on_message(table, {"type": "replay", "run_id": run.run_id}, [])
    wait_until(lambda: panel.chosen == "replay" and replay.title == run.run_id, "the run was not loaded")
    panel.close()


def test_a_panel_opens_where_nothing_is_deployed_and_says_what_to_do(cloud: Running) -> None:
    with workbench.connect("local", app_name="never-deployed-panel") as nothing:
        panel = workbench.open(nothing)
        panel._on_message(panel, {"type": "hello"}, [])
        wait_until(lambda: "run `workbench deploy`" in panel.missing, "nobody said that nothing is deployed")
        files = panel.part("files")
        assert isinstance(files, Files)
        wait_until(lambda: "run `workbench deploy`" in files.why, "the files did not say why there are none")
        names = [one.name for one in modal.Volume.objects.list()]
        assert "never-deployed-panel-projects" not in names  # looking makes nothing
        panel.close()


def test_the_magic_opens_a_target(wb: Workbench) -> None:
    """As in a notebook: `%load_ext workbench`, then `%workbench`."""
    shell = InteractiveShell.instance()
    try:
        shell.run_line_magic("load_ext", "workbench")
        panel = shell.run_line_magic("workbench", f"local {wb.app_name}")
        assert (panel.workbench.target.kind, panel.workbench.app_name) == ("local", wb.app_name)
        assert panel.workbench.endpoint.url == wb.endpoint.url
        panel.close()
        with pytest.raises(UsageError):
            shell.run_line_magic("workbench", "local app more")
    finally:
        InteractiveShell.clear_instance()


def test_a_star_import_does_not_hide_the_builtin() -> None:
    assert "open" in dir(workbench)
    assert "open" not in workbench.__all__


def test_jupyterlab_has_the_extension_as_it_stands_here() -> None:
    """Installed with the package: after a change, `uv sync --reinstall-package modal-workbench`."""
    installed = Path(sys.prefix) / "share" / "jupyter" / "labextensions" / "modal-workbench"
    for path in EXTENSION.rglob("*.js*"):
        assert (installed / path.relative_to(EXTENSION)).read_bytes() == path.read_bytes(), path
    package = json.loads((EXTENSION / "package.json").read_text())
    assert (EXTENSION / package["jupyterlab"]["_build"]["load"]).is_file()

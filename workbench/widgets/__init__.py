"""Widgets: Python owns the state, one plain JavaScript file draws it. Guest text enters the page only as text."""

from workbench.widgets.checklist import Checklist
from workbench.widgets.deploy_panel import DeployPanel
from workbench.widgets.failures import Failures
from workbench.widgets.files import Files
from workbench.widgets.launcher import Launcher
from workbench.widgets.replay import Replay
from workbench.widgets.run_view import RunView
from workbench.widgets.runs_table import RunsTable
from workbench.widgets.volume_browser import VolumeBrowser
from workbench.widgets.workbench_panel import WorkbenchPanel

__all__ = [
    "Checklist",
    "DeployPanel",
    "Failures",
    "Files",
    "Launcher",
    "Replay",
    "RunView",
    "RunsTable",
    "VolumeBrowser",
    "WorkbenchPanel",
]

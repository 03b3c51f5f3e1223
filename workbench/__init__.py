"""The workbench's public API: deploy the endpoint, launch jobs, watch their events, look into their volumes.

wb = workbench.connect()            # the local cloud; "modal" for Modal itself
wb.deploy()
run = wb.launch(workbench.Project.new(), "python", code="print('hello')")
run.wait()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench.views import show_with

if TYPE_CHECKING:
    from modal_app.contract.errors import ContractError, ErrorCode
    from workbench.cloud_control.controls import (
        ActiveFault,
        ControlError,
        ControlUnavailableError,
        FaultRule,
        InjectedFault,
    )
    from workbench.deployment.deploy import DeployFailedError
    from workbench.deployment.deployments import Deployed
    from workbench.deployment.endpoint import Endpoint
    from workbench.deployment.targets import Target, TargetUnavailableError
    from workbench.errors import WorkbenchError
    from workbench.files.history import BlamedLine, CommitInfo, FileChange, HistoryError, HistoryUnavailableError
    from workbench.files.preview import Preview
    from workbench.files.project_files import ProjectVolume, VolumeEntry
    from workbench.panel import load_ipython_extension as load_ipython_extension
    from workbench.panel import open as open  # noqa: A004  # workbench.open
    from workbench.runs.archive import ArchiveUnavailableError, ArchiveUnreadableError, RunArchive, RunNotArchivedError
    from workbench.runs.archived_run import ArchivedRun, ListedRun, RunList
    from workbench.runs.bisection import Bisection, FirstDifference
    from workbench.runs.client import AsyncClient, Received, RequestRefusedError, StreamLostError
    from workbench.runs.comparison import Comparison
    from workbench.runs.labels import Labels, LabelsUnreadableError, RunLabel, SavedFilter
    from workbench.runs.project import Project, make_request
    from workbench.runs.recordings import Recording, RecordingUnreadableError
    from workbench.runs.run import Run
    from workbench.runs.serving import NotServedError, ServedRecording, serve
    from workbench.runs.timeline import Timeline
    from workbench.runs.view_state import ViewState
    from workbench.session import Workbench, connect

# Imported only when used: the SDK alone takes most of a second to import, and `workbench cloud start` must not wait.
_HOMES = {
    "WorkbenchError": "workbench.errors",
    "ContractError": "modal_app.contract.errors",
    "ErrorCode": "modal_app.contract.errors",
    "ArchiveUnavailableError": "workbench.runs.archive",
    "ArchiveUnreadableError": "workbench.runs.archive",
    "RunArchive": "workbench.runs.archive",
    "RunNotArchivedError": "workbench.runs.archive",
    "ArchivedRun": "workbench.runs.archived_run",
    "ListedRun": "workbench.runs.archived_run",
    "RunList": "workbench.runs.archived_run",
    "Bisection": "workbench.runs.bisection",
    "FirstDifference": "workbench.runs.bisection",
    "Comparison": "workbench.runs.comparison",
    "Deployed": "workbench.deployment.deployments",
    "Preview": "workbench.files.preview",
    "AsyncClient": "workbench.runs.client",
    "Received": "workbench.runs.client",
    "RequestRefusedError": "workbench.runs.client",
    "StreamLostError": "workbench.runs.client",
    "ActiveFault": "workbench.cloud_control.controls",
    "ControlError": "workbench.cloud_control.controls",
    "ControlUnavailableError": "workbench.cloud_control.controls",
    "FaultRule": "workbench.cloud_control.controls",
    "InjectedFault": "workbench.cloud_control.controls",
    "DeployFailedError": "workbench.deployment.deploy",
    "Endpoint": "workbench.deployment.endpoint",
    "BlamedLine": "workbench.files.history",
    "CommitInfo": "workbench.files.history",
    "FileChange": "workbench.files.history",
    "HistoryError": "workbench.files.history",
    "HistoryUnavailableError": "workbench.files.history",
    "Labels": "workbench.runs.labels",
    "LabelsUnreadableError": "workbench.runs.labels",
    "RunLabel": "workbench.runs.labels",
    "SavedFilter": "workbench.runs.labels",
    "Recording": "workbench.runs.recordings",
    "RecordingUnreadableError": "workbench.runs.recordings",
    "load_ipython_extension": "workbench.panel",
    "open": "workbench.panel",
    "Run": "workbench.runs.run",
    "NotServedError": "workbench.runs.serving",
    "ServedRecording": "workbench.runs.serving",
    "serve": "workbench.runs.serving",
    "Project": "workbench.runs.project",
    "Workbench": "workbench.session",
    "connect": "workbench.session",
    "make_request": "workbench.runs.project",
    "Target": "workbench.deployment.targets",
    "TargetUnavailableError": "workbench.deployment.targets",
    "Timeline": "workbench.runs.timeline",
    "ViewState": "workbench.runs.view_state",
    "ProjectVolume": "workbench.files.project_files",
    "VolumeEntry": "workbench.files.project_files",
}


def _run_view(run: Any, **options: Any) -> object:
    return import_module("workbench.widgets.run_view").RunView(run, **options)


def _volume_browser(files: Any) -> object:
    return import_module("workbench.widgets.volume_browser").VolumeBrowser(files)


def _checklist(names: Any, **options: Any) -> object:
    return import_module("workbench.widgets.checklist").Checklist(names, **options)


show_with("run", _run_view)
show_with("project files", _volume_browser)
show_with("check", _checklist)


def __getattr__(name: str) -> object:
    """Import a name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "open"]


# Without `open` and what IPython calls: a star import must not hide the builtin.
__all__ = [
    "connect",
    "serve",
    "Workbench",
    "Project",
    "Run",
    "RunArchive",
    "RunList",
    "ListedRun",
    "ArchivedRun",
    "Comparison",
    "Bisection",
    "FirstDifference",
    "ServedRecording",
    "Deployed",
    "Recording",
    "ProjectVolume",
    "VolumeEntry",
    "Preview",
    "CommitInfo",
    "FileChange",
    "BlamedLine",
    "FaultRule",
    "ActiveFault",
    "InjectedFault",
    "Timeline",
    "ViewState",
    "Labels",
    "RunLabel",
    "SavedFilter",
    "AsyncClient",
    "Endpoint",
    "Received",
    "Target",
    "make_request",
    "WorkbenchError",
    "ContractError",
    "ErrorCode",
    "RequestRefusedError",
    "StreamLostError",
    "RunNotArchivedError",
    "ArchiveUnreadableError",
    "ArchiveUnavailableError",
    "RecordingUnreadableError",
    "NotServedError",
    "LabelsUnreadableError",
    "DeployFailedError",
    "TargetUnavailableError",
    "HistoryError",
    "HistoryUnavailableError",
    "ControlError",
    "ControlUnavailableError",
]

"""Deploy the endpoint, launch jobs, watch their events, look into their volumes: what engineers import in a notebook.

wb = workbench.connect()            # the local cloud; "modal" for Modal itself
wb.deploy()
run = wb.launch(workbench.Project.new(), "python", code="print('hello')")
run.wait()
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modal_app.contract.errors import ContractError, ErrorCode
    from workbench.archive import ArchiveUnavailableError, ArchiveUnreadableError, RunArchive, RunNotArchivedError
    from workbench.archived_run import ArchivedRun, ListedRun, RunList
    from workbench.client import AsyncClient, Received, RequestRefusedError, StreamLostError
    from workbench.comparison import Comparison
    from workbench.control import ActiveFault, ControlError, ControlUnavailableError, FaultRule, InjectedFault
    from workbench.deploy import DeployFailedError
    from workbench.deployments import Deployed
    from workbench.endpoint import Endpoint
    from workbench.history import BlamedLine, CommitInfo, FileChange, HistoryError, HistoryUnavailableError
    from workbench.panel import load_ipython_extension as load_ipython_extension
    from workbench.panel import open as open  # noqa: A004  # workbench.open
    from workbench.preview import Preview
    from workbench.project import Project, make_request
    from workbench.recordings import Recording, RecordingUnreadableError
    from workbench.run import Run
    from workbench.session import Workbench, connect
    from workbench.targets import Target, TargetUnavailableError
    from workbench.timeline import Timeline
    from workbench.view_state import ViewState
    from workbench.volumes import ProjectVolume, VolumeEntry

# Why by hand: the SDK alone takes most of a second to import, and `workbench cloud start` must not wait for it.
_HOMES = {
    "ContractError": "modal_app.contract.errors",
    "ErrorCode": "modal_app.contract.errors",
    "ArchiveUnavailableError": "workbench.archive",
    "ArchiveUnreadableError": "workbench.archive",
    "RunArchive": "workbench.archive",
    "RunNotArchivedError": "workbench.archive",
    "ArchivedRun": "workbench.archived_run",
    "ListedRun": "workbench.archived_run",
    "RunList": "workbench.archived_run",
    "Comparison": "workbench.comparison",
    "Deployed": "workbench.deployments",
    "Preview": "workbench.preview",
    "AsyncClient": "workbench.client",
    "Received": "workbench.client",
    "RequestRefusedError": "workbench.client",
    "StreamLostError": "workbench.client",
    "ActiveFault": "workbench.control",
    "ControlError": "workbench.control",
    "ControlUnavailableError": "workbench.control",
    "FaultRule": "workbench.control",
    "InjectedFault": "workbench.control",
    "DeployFailedError": "workbench.deploy",
    "Endpoint": "workbench.endpoint",
    "BlamedLine": "workbench.history",
    "CommitInfo": "workbench.history",
    "FileChange": "workbench.history",
    "HistoryError": "workbench.history",
    "HistoryUnavailableError": "workbench.history",
    "Recording": "workbench.recordings",
    "RecordingUnreadableError": "workbench.recordings",
    "load_ipython_extension": "workbench.panel",
    "open": "workbench.panel",
    "Run": "workbench.run",
    "Project": "workbench.project",
    "Workbench": "workbench.session",
    "connect": "workbench.session",
    "make_request": "workbench.project",
    "Target": "workbench.targets",
    "TargetUnavailableError": "workbench.targets",
    "Timeline": "workbench.timeline",
    "ViewState": "workbench.view_state",
    "ProjectVolume": "workbench.volumes",
    "VolumeEntry": "workbench.volumes",
}


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
    "Workbench",
    "Project",
    "Run",
    "RunArchive",
    "RunList",
    "ListedRun",
    "ArchivedRun",
    "Comparison",
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
    "AsyncClient",
    "Endpoint",
    "Received",
    "Target",
    "make_request",
    "ContractError",
    "ErrorCode",
    "RequestRefusedError",
    "StreamLostError",
    "RunNotArchivedError",
    "ArchiveUnreadableError",
    "ArchiveUnavailableError",
    "RecordingUnreadableError",
    "DeployFailedError",
    "TargetUnavailableError",
    "HistoryError",
    "HistoryUnavailableError",
    "ControlError",
    "ControlUnavailableError",
]

"""Deploy the endpoint, launch jobs, watch their events, look into their volumes: what engineers import in a notebook.

    wb = workbench.connect()            # the local cloud; "modal" for Modal itself
    wb.deploy()
    run = wb.launch(workbench.Project.new(), "python", code="print('hello')")
    run.wait()
"""

from modal_app.contract.errors import ContractError, ErrorCode
from workbench.client import AsyncClient, Received, RequestRefusedError, StreamLostError
from workbench.deploy import DeployFailedError
from workbench.endpoint import Endpoint
from workbench.run import Run
from workbench.session import Project, Workbench, connect, make_request
from workbench.targets import Target, TargetUnavailableError
from workbench.timeline import Timeline
from workbench.view_state import ViewState
from workbench.volumes import ProjectVolume, VolumeEntry

__all__ = [
    "connect",
    "Workbench",
    "Project",
    "Run",
    "ProjectVolume",
    "VolumeEntry",
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
    "DeployFailedError",
    "TargetUnavailableError",
]

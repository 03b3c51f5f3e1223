"""Task RPCs, for `modal container`. A task is a container of a function, or a sandbox."""

import asyncio
from typing import Any

from modal_proto import api_pb2

from workbench.local_cloud.apps.app_logs import AppLogs
from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.errors import CloudError, invalid, not_found
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.functions.task import Task
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes
from workbench.local_cloud.store.names import DEFAULT_ENVIRONMENT

_STOP_S = 60.0


class TaskRpcs:
    """Lists, describes and stops tasks."""

    def __init__(self, apps: Apps, pools: Pools, sandboxes: Sandboxes, logs: AppLogs) -> None:
        self._apps = apps
        self._pools = pools
        self._sandboxes = sandboxes
        self._logs = logs

    async def TaskList(self, request: api_pb2.TaskListRequest, context: Any) -> api_pb2.TaskListResponse:
        """List the running tasks of an environment, or of one app, which may be in any."""
        environment = request.environment_name or ("" if request.app_id else DEFAULT_ENVIRONMENT)
        response = api_pb2.TaskListResponse()
        running: list[Task | Record] = [
            *self._pools.tasks(),
            *(record for record in self._sandboxes.all() if record.result is None),
        ]
        for task in running:
            app_id = self._app_id(task)
            app = self._apps.get(app_id)
            if request.app_id not in ("", app_id) or environment not in ("", app.environment):
                continue
            response.tasks.add(
                task_id=task.task_id,
                app_id=app_id,
                app_description=app.description,
                started_at=_started_at(task),
                enqueued_at=_enqueued_at(task),
            )
        return response

    async def TaskGetInfo(self, request: api_pb2.TaskGetInfoRequest, context: Any) -> api_pb2.TaskGetInfoResponse:
        """Describe one task. The times of a function's container that has ended come from its log."""
        task = self._find(request.task_id)
        if task is None:
            remembered = self._logs.task(request.task_id)
            if remembered is None:
                raise not_found(f"Task {request.task_id} not found.")
            app_id, first, last = remembered
            info = api_pb2.TaskInfo(id=request.task_id, enqueued_at=first, started_at=first, finished_at=last + 1)
            return api_pb2.TaskGetInfoResponse(app_id=app_id, info=info)
        info = api_pb2.TaskInfo(id=request.task_id, started_at=_started_at(task), enqueued_at=_enqueued_at(task))
        if isinstance(task, Record):
            info.sandbox_id = task.sandbox_id
            info.finished_at = task.finished_at
            if task.result is not None:
                info.result.CopyFrom(task.result)
        return api_pb2.TaskGetInfoResponse(app_id=self._app_id(task), info=info)

    async def ContainerStop(self, request: api_pb2.ContainerStopRequest, context: Any) -> api_pb2.ContainerStopResponse:
        """Stop a task. A function's container gets SIGINT and 30 s to end, and its inputs start again in another one.

        With `graceful` it first finishes the inputs that it works on, and this returns at once.
        """
        task = self._find(request.task_id)
        if task is None:
            raise not_found(f"Task {request.task_id} not found.")
        if isinstance(task, Record):
            if request.graceful:
                raise invalid(
                    f"{request.task_id} is a sandbox, which cannot be stopped gracefully: stop it without `graceful`."
                )
            await self._sandboxes.terminate(task)
        elif request.graceful:
            self._pools.drain_task(task.task_id)
        else:
            await asyncio.wait_for(self._pools.stop_task(task.task_id), _STOP_S)
        return api_pb2.ContainerStopResponse()

    def _app_id(self, task: Task | Record) -> str:
        return task.app_id if isinstance(task, Record) else self._apps.app_of(task.function_id).app_id

    def _find(self, task_id: str) -> Task | Record | None:
        try:
            return self._sandboxes.by_task(task_id)
        except CloudError:
            pass
        try:
            return self._pools.task(task_id)
        except CloudError:
            return None


def _started_at(task: Task | Record) -> float:
    return task.started_at if isinstance(task, Task) else task.created_at


def _enqueued_at(task: Task | Record) -> float:
    return task.enqueued_at if isinstance(task, Task) else task.created_at

"""App RPCs: create, publish, look up, list, stop, and read their logs."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import groupby
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.apps.app_logs import AppLogs, LogRow, Wanted
from workbench.local_cloud.apps.apps import App, Apps
from workbench.local_cloud.apps.deployment_versions import Deployments
from workbench.local_cloud.apps.function_handles import handle_metadata
from workbench.local_cloud.base.errors import invalid
from workbench.local_cloud.store.names import DEFAULT_ENVIRONMENT
from workbench.local_cloud.workspace.handshake import client_version, version_warnings

_LOG_POLL_S = 5.0
_COUNTED_AS: dict[int, str] = {
    api_pb2.FILE_DESCRIPTOR_STDERR: "stderr_logs",
    api_pb2.FILE_DESCRIPTOR_INFO: "system_logs",
}


class AppRpcs:
    """Handles the app RPCs."""

    def __init__(
        self,
        apps: Apps,
        deployments: Deployments,
        logs: AppLogs,
        *,
        running_tasks: Callable[[str], int],
        web_url: Callable[[str], str],
        published: Callable[[str], None],
        stop_app: Callable[[str], Awaitable[None]],
        stop_completed: Callable[[], Awaitable[None]],
        task_of_sandbox: Callable[[str], str],
        build_log: Callable[[str, Wanted], list[LogRow]],
        has_ended: Callable[[str], bool],
    ) -> None:
        """Take what the RPCs need of other rooms; each callable takes an app's id unless said otherwise.

        `running_tasks` counts an app's containers; `web_url` returns the URL of a function; `published` is called after
        each new layout; `stop_app` stops an app and all that runs for it; `stop_completed`, without an id, stops the
        detached apps whose client has left them and that have nothing left to do; `task_of_sandbox` returns the task
        id of a sandbox; `build_log` returns the log of an image, which the SDK reads as if the image were an app;
        `has_ended` says whether an app is stopped and everything that it printed is in the log.
        """
        self._has_ended = has_ended
        self._build_log = build_log
        self._apps = apps
        self._deployments = deployments
        self._logs = logs
        self._running_tasks = running_tasks
        self._web_url = web_url
        self._published = published
        self._stop_app = stop_app
        self._stop_completed = stop_completed
        self._task_of_sandbox = task_of_sandbox

    async def AppCreate(self, request: api_pb2.AppCreateRequest, context: Any) -> api_pb2.AppCreateResponse:
        """Make an app."""
        app_id = self._apps.create(
            environment=request.environment_name, description=request.description, state=request.app_state
        )
        return api_pb2.AppCreateResponse(app_id=app_id, app_page_url=_page(app_id))

    async def AppGetByDeploymentName(
        self, request: api_pb2.AppGetByDeploymentNameRequest, context: Any
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        """Find a deployment by name, else the one of that name that was stopped last.

        The answer for an unknown name has no id, it is no error.
        """
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        app = self._apps.find(request.name, environment=environment)
        stopped = self._apps.stopped(request.name, environment=environment) if app is None else None
        found = app or stopped
        return api_pb2.AppGetByDeploymentNameResponse(
            app_id=app.app_id if app is not None else "",
            previous_app_id=stopped.app_id if stopped is not None else "",
            environment_name=environment,
            lifecycle=_lifecycle(found) if found is not None else None,
        )

    async def AppGetOrCreate(
        self, request: api_pb2.AppGetOrCreateRequest, context: Any
    ) -> api_pb2.AppGetOrCreateResponse:
        """Find a deployment by name, or make an empty one."""
        app = self._apps.get_or_create(
            request.app_name,
            environment=request.environment_name,
            create=request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
        )
        return api_pb2.AppGetOrCreateResponse(app_id=app.app_id, handle_metadata=self._handle(app))

    async def AppGetLayout(self, request: api_pb2.AppGetLayoutRequest, context: Any) -> api_pb2.AppGetLayoutResponse:
        """Return the functions and classes of an app, with what the SDK needs to call each."""
        return api_pb2.AppGetLayoutResponse(app_layout=self.layout(request.app_id))

    def layout(self, app_id: str) -> api_pb2.AppLayout:
        """Return an app's layout; raises CloudError NOT_FOUND."""
        app = self._apps.get(app_id)
        layout = api_pb2.AppLayout(function_ids=app.function_ids, class_ids=app.class_ids)
        for function_id in app.function_ids.values():
            metadata = handle_metadata(self._apps, function_id, self._web_url(function_id))
            layout.objects.add(object_id=function_id, function_handle_metadata=metadata)
        for class_id in app.class_ids.values():
            layout.objects.add(object_id=class_id, class_handle_metadata=api_pb2.ClassHandleMetadata())
        return layout

    async def AppPublish(self, request: api_pb2.AppPublishRequest, context: Any) -> api_pb2.AppPublishResponse:
        """Publish a layout; containers of older definitions get no further inputs."""
        if request.staged:
            raise invalid("Staged deployments are not implemented by the local cloud: deploy without staging.")
        app = self._deployments.publish(request, client_version=client_version(context))
        self._published(app.app_id)
        return api_pb2.AppPublishResponse(
            url=_page(app.app_id), deployed_at=app.deployed_at, server_warnings=version_warnings(context)
        )

    async def AppRollback(self, request: api_pb2.AppRollbackRequest, context: Any) -> api_pb2.AppRollbackResponse:
        """Deploy an earlier version again, as the next version."""
        self._deployments.roll_back(request.app_id, request.version, client_version=client_version(context))
        self._published(request.app_id)
        app = self._apps.get(request.app_id)
        return api_pb2.AppRollbackResponse(url=_page(app.app_id), deployed_at=app.deployed_at)

    async def AppRollover(self, request: api_pb2.AppRolloverRequest, context: Any) -> api_pb2.AppRolloverResponse:
        """Replace an app's containers by new ones with the same code."""
        app = self._deployments.roll_over(request.app_id, client_version=client_version(context))
        self._published(app.app_id)
        return api_pb2.AppRolloverResponse(url=_page(app.app_id), deployed_at=app.deployed_at)

    async def AppGetInfo(self, request: api_pb2.AppGetInfoRequest, context: Any) -> api_pb2.AppGetInfoResponse:
        """Describe an app."""
        return api_pb2.AppGetInfoResponse(info=self._handle(self._apps.get(request.app_id)))

    async def AppGetTags(self, request: api_pb2.AppGetTagsRequest, context: Any) -> api_pb2.AppGetTagsResponse:
        """Return an app's tags."""
        return api_pb2.AppGetTagsResponse(tags=self._apps.get(request.app_id).tags)

    async def AppSetTags(self, request: api_pb2.AppSetTagsRequest, context: Any) -> empty_pb2.Empty:
        """Replace an app's tags."""
        self._apps.set_tags(request.app_id, dict(request.tags))
        return empty_pb2.Empty()

    async def AppHeartbeat(self, request: api_pb2.AppHeartbeatRequest, context: Any) -> empty_pb2.Empty:
        """Keep an ephemeral or detached app alive."""
        self._apps.beat(request.app_id)
        return empty_pb2.Empty()

    async def AppClientDisconnect(self, request: api_pb2.AppClientDisconnectRequest, context: Any) -> empty_pb2.Empty:
        """Stop an ephemeral app whose client disconnects; deployments go on.

        A detached app goes on, too, until its calls and sandboxes have ended, for whatever reason its client leaves.
        """
        app = self._apps.get(request.app_id)
        if app.state in (api_pb2.APP_STATE_EPHEMERAL, api_pb2.APP_STATE_INITIALIZING):
            await self._stop_app(app.app_id)
        elif app.state == api_pb2.APP_STATE_DETACHED:
            self._apps.leave(app.app_id)
            await self._stop_completed()
        return empty_pb2.Empty()

    async def AppStop(self, request: api_pb2.AppStopRequest, context: Any) -> empty_pb2.Empty:
        """Stop an app and everything that runs for it."""
        self._apps.get(request.app_id)
        await self._stop_app(request.app_id)
        return empty_pb2.Empty()

    async def AppList(self, request: api_pb2.AppListRequest, context: Any) -> api_pb2.AppListResponse:
        """List apps that run, are deployed or were stopped in the last hour, newest first."""
        response = api_pb2.AppListResponse()
        for app in self._apps.listed(environment=request.environment_name):
            response.apps.add(
                app_id=app.app_id,
                description=app.description,
                state=app.state,
                created_at=app.created_at,
                stopped_at=app.stopped_at,
                n_running_tasks=self._running_tasks(app.app_id),
                name=app.name or "",
                metadata=self._handle(app),
            )
        return response

    async def AppGetLifecycle(
        self, request: api_pb2.AppGetLifecycleRequest, context: Any
    ) -> api_pb2.AppGetLifecycleResponse:
        """Return an app's state and times."""
        return api_pb2.AppGetLifecycleResponse(lifecycle=_lifecycle(self._apps.get(request.app_id)))

    async def AppDeploymentHistory(
        self, request: api_pb2.AppDeploymentHistoryRequest, context: Any
    ) -> api_pb2.AppDeploymentHistoryResponse:
        """Return an app's deployments, newest first."""
        history = self._deployments.history(request.app_id)
        return api_pb2.AppDeploymentHistoryResponse(
            app_deployment_histories=[
                api_pb2.AppDeploymentHistory(
                    app_id=request.app_id,
                    version=deployment.version,
                    deployed_at=deployment.at,
                    tag=deployment.tag,
                    client_version=deployment.client_version,
                    deployed_by="local",
                    rollback_version=deployment.rolled_back_to,
                    rollback_allowed=True,
                    commit_info=deployment.commit,
                )
                for deployment in history
            ],
            production_app_version=history[0].version if history else 0,
        )

    async def AppGetLogs(
        self, request: api_pb2.AppGetLogsRequest, context: Any
    ) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """Stream an app's output after a row, for as long as the client asks and at most 60 s."""
        app_id = request.app_id or (self._apps.app_of(request.function_id).app_id if request.function_id else "")
        self._apps.get(app_id)
        after = int(request.last_entry_id) if request.last_entry_id.isdigit() else 0
        wanted = self._wanted(request, fd=request.file_descriptor)
        deadline = time.monotonic() + min(max(request.timeout, 0.0), 60.0)
        while True:
            ended = self._has_ended(app_id)  # before the rows are read, so that the last ones are not missed
            newest = self._logs.last_entry(app_id)
            while rows := self._logs.after(app_id, after, wanted):
                after = rows[-1].entry
                for batch in _batches(rows):
                    yield batch
            after = max(after, newest)
            if ended:
                yield api_pb2.TaskLogsBatch(app_done=True, entry_id=str(after))
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            await self._logs.wait(app_id, timeout_s=min(remaining, _LOG_POLL_S))

    async def AppFetchLogs(self, request: api_pb2.AppFetchLogsRequest, context: Any) -> api_pb2.AppFetchLogsResponse:
        """Read an app's output between two times."""
        wanted = self._wanted(request, fd=request.source, times=request)
        if request.app_id.startswith("im-"):
            rows = self._build_log(request.app_id, wanted)[-request.limit :]
        else:
            self._apps.get(request.app_id)
            rows = self._logs.newest(request.app_id, request.limit, wanted)
        return api_pb2.AppFetchLogsResponse(batches=_batches(rows))

    async def AppCountLogs(self, request: api_pb2.AppCountLogsRequest, context: Any) -> api_pb2.AppCountLogsResponse:
        """Count log rows in buckets of `bucket_secs` seconds, which begin at multiples of that."""
        width = max(request.bucket_secs, 1)
        wanted = self._wanted(request, fd=request.source, times=request)
        if request.app_id.startswith("im-"):
            found = Counter((int(row.at) // width * width, row.fd) for row in self._build_log(request.app_id, wanted))
            counts = [(begin, fd, count) for (begin, fd), count in sorted(found.items())]
        else:
            counts = self._logs.counts(request.app_id, width_s=width, wanted=wanted)
        response = api_pb2.AppCountLogsResponse()
        for begin, fd, count in counts:
            bucket = response.buckets.add(**{_COUNTED_AS.get(fd, "stdout_logs"): count})
            bucket.bucket_start_at.FromSeconds(begin)
        return response

    def _wanted(
        self,
        request: api_pb2.AppGetLogsRequest | api_pb2.AppFetchLogsRequest | api_pb2.AppCountLogsRequest,
        *,
        fd: int,
        times: api_pb2.AppFetchLogsRequest | api_pb2.AppCountLogsRequest | None = None,
    ) -> Wanted:
        """Return a request's filters. A function's rows include those of its variants, unless it names one variant."""
        task_id = request.task_id or (self._task_of_sandbox(request.sandbox_id) if request.sandbox_id else "")
        functions = [request.function_id, *self._apps.variants(request.function_id)] if request.function_id else []
        return Wanted(
            since=times.since.ToNanoseconds() / 1e9 if times is not None else 0,
            until=times.until.ToNanoseconds() / 1e9 if times is not None else 0,
            search=request.search_text,
            task_id=task_id,
            function_ids=[request.parametrized_function_id] if request.parametrized_function_id else functions,
            call_id=request.function_call_id,
            input_id=request.input_id if isinstance(request, api_pb2.AppGetLogsRequest) else "",
            fd=fd,
        )

    def _handle(self, app: App) -> api_pb2.AppHandleMetadata:
        return api_pb2.AppHandleMetadata(
            description=app.description,
            app_id=app.app_id,
            environment_name=app.environment,
            lifecycle=_lifecycle(app),
            functions=app.function_ids,
        )


def _page(app_id: str) -> str:
    """Return an address in place of that of Modal's web page about an app, which there is none of here."""
    return f"local-cloud://apps/{app_id}"


def _lifecycle(app: App) -> api_pb2.AppLifecycle:
    return api_pb2.AppLifecycle(
        app_state=app.state,  # type: ignore[arg-type]  # stored as the enum's number
        created_at=app.created_at,
        created_by="local",
        deployed_at=app.deployed_at,
        deployed_by="local" if app.deployed_at else "",
        version=app.version,
        stopped_at=app.stopped_at,
    )


def _batches(rows: list[LogRow]) -> Iterator[api_pb2.TaskLogsBatch]:
    """Yield rows as the protocol's batches: consecutive rows of one container and function are one batch."""
    for (task_id, function_id), found in groupby(rows, lambda row: row.origin[:2]):
        batch = api_pb2.TaskLogsBatch(task_id=task_id, function_id=function_id)
        for row in found:
            batch.entry_id = str(row.entry)
            batch.items.add(
                data=row.text,
                timestamp=row.at,
                timestamp_ns=int(row.at * 1e9),
                file_descriptor=row.fd,
                function_call_id=row.origin.call_id,
                input_id=row.origin.input_id,
            )
        yield batch

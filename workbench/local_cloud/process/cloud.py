"""Assembles the local cloud from its parts, starts them in order, and ends them in the reverse order.

The cloud is one process, at loopback addresses only. What must outlive it is in the state directory. Everything else is
in one run directory, which is removed when the cloud ends, by the janitor if the cloud is killed.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from modal_proto import api_pb2
from starlette.applications import Starlette

from workbench.local_cloud.apps.app_logs import AppLogs, Origin
from workbench.local_cloud.apps.app_rpc import AppRpcs
from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.apps.deployment_versions import Deployments
from workbench.local_cloud.base.clocks import WHOLE, Clocks
from workbench.local_cloud.base.code_version import VERSION_HEADER, code_digest
from workbench.local_cloud.base.credentials import Credentials
from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.base.ports import listen
from workbench.local_cloud.base.quiet_server import QuietServer
from workbench.local_cloud.faults.injection import Injector
from workbench.local_cloud.faults.rules import Faults
from workbench.local_cloud.functions.build_functions import FunctionsOfBuilds
from workbench.local_cloud.functions.call_rpc import CallRpcs
from workbench.local_cloud.functions.container_maker import ContainerMaker
from workbench.local_cloud.functions.container_rpc import ContainerRpcs
from workbench.local_cloud.functions.function_calls import Calls
from workbench.local_cloud.functions.function_rpc import FunctionRpcs
from workbench.local_cloud.functions.listings import ListingRpcs
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.functions.schedules import Schedules
from workbench.local_cloud.functions.web_ingress import Ingress
from workbench.local_cloud.images import images
from workbench.local_cloud.images.image_rpc import ImageRpcs
from workbench.local_cloud.images.name_rpc import ImageNameRpcs
from workbench.local_cloud.images.names import ImageNames
from workbench.local_cloud.mounts.blob_routes import BlobRoutes
from workbench.local_cloud.mounts.mount_rpc import MountRpcs
from workbench.local_cloud.objects.dict_rpc import DictRpcs
from workbench.local_cloud.objects.dicts import Dicts
from workbench.local_cloud.objects.queue_rpc import QueueRpcs
from workbench.local_cloud.objects.queues import Queues
from workbench.local_cloud.objects.secrets import SecretRpcs
from workbench.local_cloud.process.clock_routes import ClockRoutes
from workbench.local_cloud.process.control_routes import ControlRoutes
from workbench.local_cloud.process.fault_targets import FaultTargets
from workbench.local_cloud.process.live_mounts import LiveMounts
from workbench.local_cloud.registry.blobs import BlobStore
from workbench.local_cloud.rootfs.layers import Layers
from workbench.local_cloud.sandboxes.engine import isolation
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.host_users import Users
from workbench.local_cloud.sandboxes.ledger import Ledger
from workbench.local_cloud.sandboxes.network.egress_policy import Network
from workbench.local_cloud.sandboxes.port_rpc import SandboxPortRpcs
from workbench.local_cloud.sandboxes.router_rpc import RouterRpcs
from workbench.local_cloud.sandboxes.router_url import Url
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.sandboxes.sandbox_rpc import SandboxRpcs
from workbench.local_cloud.sandboxes.sandbox_rpc_v1 import SandboxRpcsV1
from workbench.local_cloud.sandboxes.sandbox_snapshots import Snapshots
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes
from workbench.local_cloud.sandboxes.snapshot_rpc import SnapshotRpcs
from workbench.local_cloud.sandboxes.stats_rpc import SandboxStatsRpcs
from workbench.local_cloud.server.callers import Authenticator
from workbench.local_cloud.server.grpc_server import RpcServer
from workbench.local_cloud.server.http_routes import on_full_disk
from workbench.local_cloud.server.signed_links import Links
from workbench.local_cloud.store.arrivals import Arrivals
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.damage import DATABASE
from workbench.local_cloud.store.database import KEPT_LOG_BYTES, Database
from workbench.local_cloud.store.disk_reserve import require_room
from workbench.local_cloud.store.ephemeral import Ephemeral
from workbench.local_cloud.store.names import Objects
from workbench.local_cloud.tasks.port_forwards import PortForwards
from workbench.local_cloud.tasks.task_rpc import TaskRpcs
from workbench.local_cloud.volumes import overlay_mounts
from workbench.local_cloud.volumes.block_routes import VolumeRoutes
from workbench.local_cloud.volumes.committed import CommittedVolumes
from workbench.local_cloud.volumes.history_routes import HistoryRoutes
from workbench.local_cloud.volumes.stacks import LAYERS
from workbench.local_cloud.volumes.volume_rpc import VolumeRpcs
from workbench.local_cloud.volumes.working_copies import WorkingCopies
from workbench.local_cloud.workspace.environments import EnvironmentRpcs
from workbench.local_cloud.workspace.handshake import SessionRpcs
from workbench.local_cloud.workspace.proxies import ProxyRpcs
from workbench.local_cloud.workspace.proxy_token_rpc import ProxyTokenRpcs
from workbench.local_cloud.workspace.proxy_tokens import ProxyTokens

_log = structlog.get_logger(__name__)

APP_SILENCE_S = 60.0  # the client of an ephemeral or detached app that has sent no heartbeat for so long is gone
_CLEAN_UP_S = 5.0
_SECRETS_S = 60.0  # between two looks for unused secrets, which may read every function's definition
_LOG_LOOK_S = 1.0
_STOP_S = 5.0


class LocalCloud:
    """A running local cloud; made by `LocalCloud.running`."""

    def __init__(
        self,
        state: Path,
        run: Path,
        credentials: Credentials,
        *,
        without_overlay: str = "it has no mounts of its own",
        egress_test_networks: Sequence[Network] = (),
    ) -> None:
        self._stack = contextlib.AsyncExitStack()
        authenticator = Authenticator(credentials)
        self._router_url = Url()
        self._http_url = Url()
        database = self._database = Database(state / DATABASE)
        self._stack.callback(database.close)
        objects = Objects(database)
        content = ContentStore(_directory(state / "content"))
        self._stack.callback(content.close)
        arrivals = Arrivals(content)
        committed = CommittedVolumes(database)
        links = Links(credentials.signing_key.encode(), self._http_url)
        blobs = BlobRoutes(database, content, links, tmp=_directory(run / "blobs"))
        blocks = VolumeRoutes(content, arrivals, links)
        why = without_overlay or overlay_mounts.why_unusable(run)
        _log.info("cloud.volumes", mounted_by="copies" if why else "overlay", why=why)
        copies = WorkingCopies(
            run / "copies",
            committed,
            content,
            may_commit=self._may_commit,
            overlay=not why,
            copies_small=not overlay_mounts.RENAMES_DIRECTORIES,
            layers=state / LAYERS,
        )
        self._stack.callback(copies.close)
        self._engine = Engine(run / "sandboxes")
        self._apps = Apps(database)
        self._clocks = clocks = Clocks(lambda function_id: self._apps.app_of(function_id).app_id)
        self._logs = AppLogs(database)
        snapshots = Snapshots(database, content, tmp=_directory(run / "snapshots"))
        secrets = self._secrets = SecretRpcs(database, objects)
        file_mounts = MountRpcs(database, content, arrivals, blobs)
        self._layers = Layers(_directory(state / "rootfs", mode=0o711))
        self._sandboxes = Sandboxes(
            self._engine,
            copies,
            clocks,
            Ledger(database),
            Users(database),
            _directory(run / "files", mode=0o711),
            layers=self._layers,
            lay_out=file_mounts.lay_out,
            on_notice=self._notice,
            on_output=self._output,
            serves_web=lambda port: self._ingress.serves(port),
            egress_test_networks=egress_test_networks,
        )
        self._images = images.Images(
            database,
            _directory(state / "images", mode=0o711),
            layers=self._layers,
            blobs=BlobStore(_directory(state / "rootfs" / "blobs"), require_room=require_room),
            seccomp=isolation.seccomp_program(rooted=True),
            lay_out=file_mounts.lay_out,
            mount_checksum=file_mounts.checksum,
            secrets=secrets.resolve,
            functions=lambda: self._build_functions,
            require_whole=partial(_require_whole, snapshots),
        )
        calls = self._calls = Calls()
        self._pools = Pools(self._apps, clocks, make_container=lambda *ids: self._containers.make(*ids))
        mounts = LiveMounts(self._sandboxes, self._pools)
        self._schedules = Schedules(self._apps, calls, self._pools, clocks)
        faults = Faults(clocks.whole.time, lambda app: clocks.of(self._app_named(app)).monotonic)
        self._injector = Injector(faults, clocks, FaultTargets(self._apps, self._pools, self._sandboxes))
        proxy_tokens = ProxyTokens(database)
        self._ingress = Ingress(
            self._apps,
            calls,
            self._pools,
            clocks,
            self._injector,
            read_blob=blobs.read,
            refusal=lambda environment, headers: proxy_tokens.refusal(
                headers, environment_id=objects.environment_id(environment)
            ),
        )
        ephemeral = Ephemeral(database)
        self._volumes = VolumeRpcs(objects, ephemeral, committed, content, arrivals, blocks, mounts_of=mounts.of_task)
        self._dicts = DictRpcs(database, objects, ephemeral, Dicts(database, objects, now=clocks.whole.time))
        self._queues = QueueRpcs(database, objects, ephemeral, Queues(database, objects, now=clocks.whole.time))
        history = HistoryRoutes(
            authenticator,
            committed,
            content,
            volume_id=self._volumes.named,
            uncommitted=mounts.uncommitted,
            working=lambda volume_id, holder: [copy for who, _, copy in mounts.writable(volume_id) if who == holder],
        )
        control = ControlRoutes(authenticator, faults, coverage=lambda: self._rpc.coverage)
        clock = ClockRoutes(authenticator, clocks, self._apps)
        self._routes = [*blobs.routes, *blocks.routes, *history.routes, *control.routes, *clock.routes]
        sandbox_rpcs = SandboxRpcs(
            self._sandboxes,
            self._apps,
            self._images,
            secrets,
            authenticator,
            snapshots=snapshots,
            router_url=self._router_url,
        )
        sandbox_ports = SandboxPortRpcs(self._sandboxes)
        deployments = self._deployments = Deployments(database, self._apps)
        app_rpcs = AppRpcs(
            self._apps,
            deployments,
            self._logs,
            running_tasks=self._pools.running_tasks,
            web_url=self._ingress.url,
            published=self._pools.redeployed,
            stop_app=self.stop_app,
            stop_completed=self._stop_completed_apps,
            task_of_sandbox=lambda sandbox_id: self._sandboxes.get(sandbox_id).task_id,
            build_log=self._images.log_rows,
            has_ended=self._has_ended,
        )
        forwards = PortForwards(self._pools, self._sandboxes.descriptors)
        self._containers = ContainerMaker(
            self._apps,
            self._images,
            copies,
            authenticator,
            self._logs,
            secrets=secrets.resolve,
            lay_out=file_mounts.lay_out,
            layout=app_rpcs.layout,
            volume_metadata=self._volumes.metadata,
            url=self._router_url,
            working_on=self._pools.working_on,
            close_ports=forwards.close,
            launchers=self._engine.launchers,
            scratch=_directory(run / "containers"),
        )
        self._build_functions = FunctionsOfBuilds(
            self._apps, calls, self._pools, self._containers, clocks, secrets=secrets.resolve
        )
        self._rpc = RpcServer(
            authenticator,
            injector=self._injector,
            control=[
                SessionRpcs(authenticator),
                EnvironmentRpcs(objects, renamed=self._sandboxes.environment_renamed),
                ProxyTokenRpcs(proxy_tokens, objects),
                ProxyRpcs(objects),
                secrets,
                file_mounts,
                ImageRpcs(self._images),
                ImageNameRpcs(ImageNames(database), objects, require=partial(_require_image, self._images, snapshots)),
                self._volumes,
                self._dicts,
                self._queues,
                app_rpcs,
                FunctionRpcs(self._apps, deployments, self._pools, self._ingress),
                CallRpcs(self._apps, calls, self._pools),
                ListingRpcs(self._apps, calls, self._pools, clocks),
                ContainerRpcs(self._apps, calls, self._pools, self._logs),
                sandbox_rpcs,
                sandbox_ports,
                SandboxRpcsV1(self._sandboxes, sandbox_rpcs, sandbox_ports),
                SandboxStatsRpcs(self._sandboxes, clocks),
                forwards,
                TaskRpcs(self._apps, self._pools, self._sandboxes, self._logs),
            ],
            router=[
                RouterRpcs(self._sandboxes, secrets),
                SnapshotRpcs(self._sandboxes, self._images, snapshots),
            ],
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        state: Path,
        run: Path,
        credentials: Credentials,
        *,
        ports: Sequence[int] = (0,),
        without_overlay: str = "it has no mounts of its own",
        egress_test_networks: Sequence[Network] = (),
    ) -> AsyncIterator["LocalCloud"]:
        """Run a cloud while the block runs, with its durable state in `state` and everything else in `run`.

        `without_overlay` says why this process cannot mount overlays, "" when it has mounts of its own and may try.
        It listens at the first of `ports` that is free (0: any free one). `egress_test_networks` are private networks
        that sandboxes may reach, for tests. Raises PortInUseError, StateError or IsolationUnavailableError; nothing is
        left running then.
        """
        cloud = cls(state, run, credentials, without_overlay=without_overlay, egress_test_networks=egress_test_networks)
        async with cloud._stack:
            await cloud._start(ports)
            yield cloud

    @property
    def url(self) -> str:
        """The URL of the gRPC server, for MODAL_SERVER_URL."""
        return self._router_url.value

    @property
    def http_url(self) -> str:
        """The URL of the HTTP server: blobs, blocks, the history of volumes, and the cloud's controls."""
        return self._http_url.value

    async def _start(self, ports: Sequence[int]) -> None:
        self._stack.callback(self._clocks.close)
        self._close_at_end(self._engine.aclose)
        await self._engine.probe()
        await self._layers.reap()
        self._close_at_end(self._sandboxes.aclose)
        self._close_at_end(self._pools.aclose)
        self._close_at_end(self._ingress.aclose)
        self._close_at_end(self._images.aclose)
        self._http_url.value = self._serve_http()
        self._close_at_end(self._rpc.aclose)
        self._router_url.value = f"http://127.0.0.1:{await self._rpc.start(ports)}"
        for function_id, method in self._apps.web_functions():
            await self._ingress.serve(function_id, method)
        for app_id in self._apps.abandoned(silence_s=0):
            await self.stop_app(app_id)
        await self._stop_completed_apps()
        for work in (self._clean_up(), self._keep_the_log_short(), self._schedules.run()):
            self._close_at_end(partial(_end, asyncio.create_task(work)))

    def _close_at_end(self, close: Callable[[], Awaitable[None]]) -> None:
        self._stack.push_async_callback(close)

    def _serve_http(self) -> str:
        listener = listen(0)
        config = uvicorn.Config(
            Starlette(routes=self._routes, exception_handlers={OSError: on_full_disk, sqlite3.Error: on_full_disk}),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            headers=[(VERSION_HEADER, code_digest())],
            timeout_graceful_shutdown=1,
        )
        server = QuietServer(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))

        async def stop() -> None:
            server.should_exit = True
            await asyncio.wait([task], timeout=_STOP_S)

        self._close_at_end(stop)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def stop_app(self, app_id: str) -> None:
        """Stop an app, its containers, its sandboxes and its web functions. Raises CloudError NOT_FOUND."""
        functions = self._apps.functions_of(app_id)
        self._apps.stop(app_id)
        await asyncio.gather(*(self._ingress.drop(function_id) for function_id in functions))
        self._calls.close_inputs_of(lambda function_id: self._apps.app_of(function_id).app_id == app_id)
        await self._pools.stop_app(app_id)
        await self._sandboxes.stop_app(app_id)
        self._clocks.forget(app_id)
        self._logs.wake(app_id)

    async def _stop_completed_apps(self) -> None:
        """Stop the detached apps whose client has left them and that have no running call and no sandbox left."""
        for app_id in self._apps.left():
            if app_id in self._apps.left() and not self._is_busy(app_id):  # it may have changed meanwhile
                await self.stop_app(app_id)

    def _is_busy(self, app_id: str) -> bool:
        """Whether an app has a running call or a sandbox."""
        calls = (self._apps.app_of(call.function_id).app_id == app_id for call in self._calls.running())
        return any(calls) or any(one.app_id == app_id and one.result is None for one in self._sandboxes.all())

    def _app_named(self, name: str) -> str:
        """The id of the running app that is named so in exactly one environment, else what stands for the cloud."""
        found = self._apps.running(name) if name else []
        return found[0] if len(found) == 1 else WHOLE

    async def _may_commit(self, author: str, sub_path: str) -> bool:
        return await self._injector.on_commit(author, sub_path)

    def _notice(self, record: Record, text: str) -> None:
        line = f"[local cloud] sandbox {record.sandbox_id}: {text}\n"
        self._logs.append(record.app_id, [line], fd=api_pb2.FILE_DESCRIPTOR_INFO, origin=Origin(record.task_id))

    def _output(self, record: Record, fd: "api_pb2.FileDescriptor.ValueType", rows: list[str]) -> None:
        self._logs.append(record.app_id, rows, fd=fd, origin=Origin(record.task_id))

    def _has_ended(self, app_id: str) -> bool:
        """Whether an app is stopped, and no sandbox or container of it is left that may still print."""
        if not self._apps.get(app_id).stopped_at:
            return False
        sandboxes = any(record.app_id == app_id and record.result is None for record in self._sandboxes.all())
        return not sandboxes and not self._pools.tasks(app_id)

    async def _keep_the_log_short(self) -> None:
        """Move the database's log into the database before it is long, in a thread that waits for the disk."""
        while True:
            await asyncio.sleep(_LOG_LOOK_S)
            try:
                if self._database.log_bytes > KEPT_LOG_BYTES:
                    await asyncio.to_thread(self._database.checkpoint)
            except Exception as error:  # noqa: BLE001  # the next attempt, or the longest log, does it
                _log.error("cloud.checkpoint_failed", exc_info=error)

    async def _clean_up(self) -> None:
        """Stop abandoned apps, and delete abandoned objects and expired entries, until cancelled."""
        secrets_due = 0.0
        silence_counts_from = time.monotonic() + APP_SILENCE_S  # while no cloud ran, no client could be heard
        while True:
            await asyncio.sleep(_CLEAN_UP_S)
            try:
                for app_id in self._apps.abandoned(silence_s=APP_SILENCE_S):
                    await self.stop_app(app_id)
                if (now := time.monotonic()) >= silence_counts_from:
                    self._apps.leave_silent(silence_s=APP_SILENCE_S)
                self._calls.close_forgotten()
                await self._stop_completed_apps()
                if now >= secrets_due:
                    secrets_due = now + _SECRETS_S
                    self._secrets.drop_unused(
                        running_apps=self._apps.not_stopped,
                        needed=lambda: self._apps.needed_secrets() | self._deployments.needed_secrets(),
                    )
                self._volumes.drop_abandoned()
                await self._dicts.tidy()
                await self._queues.tidy()
            except Exception as error:  # noqa: BLE001  # one failure must not prevent later clean-ups
                _log.error("cloud.clean_up_failed", exc_info=error)


def _require_whole(snapshots: Snapshots, image_id: str) -> None:
    """Raise CloudError for a snapshot that has expired, or whose files only sandboxes get."""
    if snapshots.is_expired(image_id):
        raise not_found(f"Image {image_id}, a snapshot of a sandbox, has expired: take a new one.")
    snapshot = snapshots.find(image_id)
    if snapshot is not None and snapshot.kind != "layer":
        raise invalid(
            f"Image {image_id} is a snapshot that only sandboxes can use: of a directory, or made where sandboxes "
            "share this machine's system. Copy its files in a sandbox, and take a snapshot of its file system."
        )


def _require_image(found: images.Images, snapshots: Snapshots, image_id: str) -> None:
    """Raise CloudError unless an image is built, or is a snapshot that has not expired."""
    if snapshots.is_expired(image_id):
        raise not_found(f"Image {image_id}, a snapshot of a sandbox, has expired: take a new one.")
    snapshot = snapshots.find(image_id)
    if snapshot is None or snapshot.kind == "layer":
        found.built(image_id)


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task], timeout=_STOP_S)


def _directory(path: Path, mode: int = 0o700) -> Path:
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    path.chmod(mode)  # whatever the umask is
    return path

"""Makes the containers of functions: their environment variables, arguments, image and mounts. The pool starts them."""

import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog
from modal_proto import api_pb2

from workbench.local_cloud.apps.app_logs import AppLogs, Origin
from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.errors import failed_precondition
from workbench.local_cloud.base.placement import placement_env
from workbench.local_cloud.functions.container import CODE_ROOT, Container
from workbench.local_cloud.images import environments, layouts
from workbench.local_cloud.images.images import Image, Images
from workbench.local_cloud.images.own_roots import OwnRoots
from workbench.local_cloud.images.plans import ImageConfig
from workbench.local_cloud.rootfs.bases import Told
from workbench.local_cloud.rootfs.ids import NoRangeError, give_to_root_inside, ids
from workbench.local_cloud.rootfs.layers import LayerError, Root
from workbench.local_cloud.rootfs.machine_base import NoMachineBaseError
from workbench.local_cloud.rootfs.warm_launchers import WarmLaunchers
from workbench.local_cloud.server.callers import TASK_HEADER, Authenticator
from workbench.local_cloud.volumes.working_copies import WorkingCopies, WorkingCopy

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Building:
    """An image that is being built: its config until now, its root, and what gets the rows that a container prints."""

    config: ImageConfig
    root: Root
    on_output: Callable[[int, list[str]], None]


class ContainerMaker:
    """Collects what a container needs from the other rooms."""

    def __init__(
        self,
        apps: Apps,
        images: Images,
        copies: WorkingCopies,
        authenticator: Authenticator,
        logs: AppLogs,
        *,
        secrets: Callable[[Iterable[str]], dict[str, str]],
        lay_out: Callable[[list[str], Path], None],
        layout: Callable[[str], api_pb2.AppLayout],
        volume_metadata: Callable[[str], api_pb2.VolumeMetadata],
        url: Callable[[], str],
        working_on: Callable[[str, str], tuple[str, str]],
        close_ports: Callable[[str], Awaitable[None]],
        launchers: WarmLaunchers,
        scratch: Path,
    ) -> None:
        """Take the parts that containers are made of.

        `secrets` returns the environment variables of secrets' ids; `lay_out` copies the files of mounts into a
        directory; `layout` returns an app's layout; `volume_metadata` that of a volume's id; `url` returns the cloud's
        gRPC URL. Each container has a directory below `scratch`. `working_on` returns the call and the input to which a
        row of output belongs, from the container's task id and the input that its output names. `close_ports` closes
        what a container has opened to its ports, by its task id.
        """
        self._apps = apps
        self._images = images
        self._own_roots = OwnRoots(images.layers)
        self._copies = copies
        self._authenticator = authenticator
        self._logs = logs
        self._secrets = secrets
        self._lay_out = lay_out
        self._layout = layout
        self._volume_metadata = volume_metadata
        self._url = url
        self._working_on = working_on
        self._close_ports = close_ports
        self._launchers = launchers
        self._scratch = scratch
        self._environment = scratch / "environment"
        self._unreadable = environments.why_unreadable()
        environments.make_empty(self._environment)
        with suppress(NoRangeError):  # no root file systems can be made here
            give_to_root_inside(self._environment)

    async def make(
        self, task_id: str, function_id: str, definition_id: str, building: Building | None = None
    ) -> Container:
        """Return a container, not started yet, for the present definition of a function.

        With `building` it runs on that root, and its output goes there. Raises CloudError when the function, its image,
        a secret or a volume does not exist or cannot be used.
        """
        async with AsyncExitStack() as held:
            return await self._made(task_id, function_id, building, held)

    async def _made(self, task_id: str, function_id: str, building: Building | None, held: AsyncExitStack) -> Container:
        function = self._apps.function(function_id)
        app = self._apps.app_of(function_id)
        image = self._images.whole(function.image_id)
        if building is not None:
            image = replace(image, config=building.config, directory=None)

        def told(text: str) -> None:
            line = f"[local cloud] container {task_id}: {text}\n"
            self._logs.append(app.app_id, [line], fd=api_pb2.FILE_DESCRIPTOR_INFO, origin=Origin(task_id, function_id))

        root = building.root if building is not None else await self._root_of(image, task_id, held, told)
        if root is not None and self._lacks_python(image):
            image = replace(image, config=replace(image.config, interpreter=sys.executable))
        held.push_async_callback(self._close_ports, task_id)  # when it is dismissed, and can open none
        admission = self._authenticator.admit_task(task_id, restricted=function.untrusted)
        held.callback(self._authenticator.dismiss_task, task_id)
        env = {
            "PATH": os.pathsep.join((f"{layouts.VENV}/bin", str(Path(sys.executable).parent), layouts.SYSTEM_PATH)),
            "HOME": CODE_ROOT,
            "LANG": "C.UTF-8",
            "PYTHONPATH": CODE_ROOT,
            "PYTHONUNBUFFERED": "1",
            **image.env(),
            **self._secrets(function.secret_ids),
            "MODAL_IS_REMOTE": "1",
            "MODAL_SERVER_URL": self._url(),
            **placement_env(task_id, function.image_id),
            "MODAL_ENVIRONMENT": app.environment,
            "MODAL_OVERRIDE_HEADERS": f"{TASK_HEADER}:{admission}",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        layout = self._layout(app.app_id)
        for dependency in function.object_dependencies:
            if dependency.object_id not in {item.object_id for item in layout.objects}:
                layout.objects.append(self._described(dependency.object_id))
        mounts: dict[str, WorkingCopy] = {}
        paths = [mount.mount_path for mount in function.volume_mounts]
        for mount in function.volume_mounts:
            copy = mounts[mount.mount_path] = await self._copies.mount(
                mount.volume_id,
                sub_path=mount.sub_path.strip("/"),
                read_only=mount.read_only,
                owner_uid=ids().root if root is not None else None,
                holds_mounts=any(path.startswith(mount.mount_path.rstrip("/") + "/") for path in paths),
            )
            held.push_async_callback(copy.discard)
            if root is not None:
                copy.path.chmod(0o755)  # the image may have several users

        def on_output(fd: int, input_id: str, rows: list[str]) -> None:
            if building is not None:
                building.on_output(fd, rows)
                return
            origin = Origin(task_id, function_id, *self._working_on(task_id, input_id))
            self._logs.append(app.app_id, rows, fd=fd, origin=origin)

        return Container(
            task_id=task_id,
            arguments=api_pb2.ContainerArguments(
                task_id=task_id,
                function_id=function_id,
                app_id=app.app_id,
                function_def=function,
                environment_name=app.environment,
                app_layout=layout,
                serialized_params=self._apps.params(function_id),
            ),
            env=env,
            mounts=mounts,
            read_only=frozenset(mount.mount_path for mount in function.volume_mounts if mount.read_only),
            image=image,
            lay_out=partial(self._lay_out, list(function.mount_ids)),
            on_output=on_output,
            inputs_together=max(function.max_concurrent_inputs, function.batch_max_size) > 1,
            held=held.pop_all(),
            scratch=self._scratch,
            seccomp=self._images.seccomp,
            launchers=self._launchers,
            root=root,
        )

    def _lacks_python(self, image: Image) -> bool:
        """Whether an image on this machine's base has no environment of its own."""
        return not image.is_rooted and not image.python

    async def _root_of(self, image: Image, task_id: str, held: AsyncExitStack, told: Told) -> Root | None:
        """Make a container's own root file system, None if it shares this machine's system; raises CloudError."""
        if why := ("" if image.is_rooted else self._unreadable) or await self._own_roots.why_shared(image.config):
            _log.info("container.shares_the_system", task_id=task_id, why=why)
            return None
        more = [self._environment] if self._lacks_python(image) else []
        try:
            root = await self._own_roots.open(image.config, image.directory, more, told=told)
        except (LayerError, NoMachineBaseError, OSError) as error:
            raise failed_precondition(f"The container's root file system cannot be made: {error}") from error
        if root is not None:
            held.push_async_callback(self._images.layers.close, root)
        return root

    def _described(self, object_id: str) -> api_pb2.Object:
        if object_id.startswith("vo-"):
            return api_pb2.Object(object_id=object_id, volume_metadata=self._volume_metadata(object_id))
        return api_pb2.Object(object_id=object_id)

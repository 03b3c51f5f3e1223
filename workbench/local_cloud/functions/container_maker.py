"""Makes the containers of functions: their environment variables, arguments, image and mounts. The pool starts them."""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from modal_proto import api_pb2

from workbench.local_cloud.apps.app_logs import AppLogs, Origin
from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.functions.container import CODE_ROOT, Container
from workbench.local_cloud.images.images import Images
from workbench.local_cloud.images.plans import ImageConfig
from workbench.local_cloud.rootfs.ids import ids
from workbench.local_cloud.rootfs.layers import Root
from workbench.local_cloud.server.callers import TASK_HEADER, Authenticator
from workbench.local_cloud.volumes.working_copies import WorkingCopies, WorkingCopy


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
        scratch: Path,
    ) -> None:
        """Take the parts that containers are made of.

        `secrets` returns the environment variables of secrets' ids; `lay_out` copies the files of mounts into a
        directory; `layout` returns an app's layout; `volume_metadata` that of a volume's id; `url` returns the cloud's
        gRPC URL. Each container has a directory below `scratch`. `working_on` returns the call and the input to which a
        row of output belongs, from the container's task id and the input that its output names.
        """
        self._apps = apps
        self._images = images
        self._copies = copies
        self._authenticator = authenticator
        self._logs = logs
        self._secrets = secrets
        self._lay_out = lay_out
        self._layout = layout
        self._volume_metadata = volume_metadata
        self._url = url
        self._working_on = working_on
        self._scratch = scratch

    async def make(
        self, task_id: str, function_id: str, definition_id: str, building: Building | None = None
    ) -> Container:
        """Return a container, not started yet, for the present definition of a function.

        With `building` it runs on that root, and its output goes there. Raises CloudError when the function, its image,
        a secret or a volume does not exist or cannot be used.
        """
        function = self._apps.function(function_id)
        app = self._apps.app_of(function_id)
        image = self._images.built(function.image_id)
        if building is not None:
            image = replace(image, config=building.config, directory=None)
        admission = self._authenticator.admit_task(task_id, restricted=function.untrusted)
        env = {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin")),
            "HOME": CODE_ROOT,
            "LANG": "C.UTF-8",
            "PYTHONPATH": CODE_ROOT,
            "PYTHONUNBUFFERED": "1",
            **image.env(),
            **self._secrets(function.secret_ids),
            "MODAL_IS_REMOTE": "1",
            "MODAL_SERVER_URL": self._url(),
            "MODAL_TASK_ID": task_id,
            "MODAL_ENVIRONMENT": app.environment,
            "MODAL_IMAGE_ID": function.image_id,
            "MODAL_OVERRIDE_HEADERS": f"{TASK_HEADER}:{admission}",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        layout = self._layout(app.app_id)
        for dependency in function.object_dependencies:
            if dependency.object_id not in {item.object_id for item in layout.objects}:
                layout.objects.append(self._described(dependency.object_id))
        mounts: dict[str, WorkingCopy] = {}
        try:
            paths = [mount.mount_path for mount in function.volume_mounts]
            for mount in function.volume_mounts:
                mounts[mount.mount_path] = await self._copies.mount(
                    mount.volume_id,
                    sub_path=mount.sub_path.strip("/"),
                    read_only=mount.read_only,
                    owner_uid=ids().root if image.is_rooted else None,
                    holds_mounts=any(path.startswith(mount.mount_path.rstrip("/") + "/") for path in paths),
                )
        except BaseException:
            for copy in mounts.values():
                await copy.discard()
            raise

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
            on_end=partial(self._authenticator.dismiss_task, task_id),
            scratch=self._scratch,
            layers=self._images.layers,
            seccomp=self._images.seccomp,
            root=building.root if building is not None else None,
        )

    def _described(self, object_id: str) -> api_pb2.Object:
        if object_id.startswith("vo-"):
            return api_pb2.Object(object_id=object_id, volume_metadata=self._volume_metadata(object_id))
        return api_pb2.Object(object_id=object_id)

"""Prepares a sandbox before it starts: chooses its user, mounts its image, files and volumes, and sets its limits."""

import asyncio
import json
import os
import posixpath
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from modal_proto import api_pb2

from workbench.local_cloud.base.placement import placement_env
from workbench.local_cloud.images import layouts
from workbench.local_cloud.images.images import Image
from workbench.local_cloud.images.own_roots import OwnRoots
from workbench.local_cloud.rootfs.ids import ids
from workbench.local_cloud.rootfs.layers import LayerError, Layers, Root
from workbench.local_cloud.rootfs.machine_base import NoMachineBaseError
from workbench.local_cloud.sandboxes.engine.host_users import Users
from workbench.local_cloud.sandboxes.engine.spec import HOME, BindMount, SandboxSpec, SandboxStartFailedError
from workbench.local_cloud.sandboxes.limits.sandbox_limits import limits_of
from workbench.local_cloud.sandboxes.limits.watchdog import Usage, Written
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.volumes.working_copies import WorkingCopies, WorkingCopy

LayOut = Callable[[list[str], Path], None]


class Preparation:
    """Makes a sandbox's mounts. Each is stored in its record at once, so that it is released if a later step fails."""

    def __init__(
        self,
        copies: WorkingCopies,
        users: Users,
        files: Path,
        *,
        layers: Layers,
        lay_out: LayOut,
        on_notice: Callable[[Record, str], None],
    ) -> None:
        """Take what sandboxes are made of.

        `layers` has the files of root file systems. `on_notice` gets a sentence for a sandbox's log. `lay_out`
        copies the files of mounts into a directory, of which one per sandbox is made in `files`.
        """
        self._copies = copies
        self._users = users
        self._files = files
        self._own_roots = OwnRoots(layers)
        self._lay_out = lay_out
        self._on_notice = on_notice

    async def spec(self, record: Record, env: dict[str, str], image: Image) -> SandboxSpec:
        """Return what the engine needs to start a sandbox. Raises CloudError when a volume cannot be mounted."""
        definition = record.definition
        written = sorted([mount.volume_id, mount.sub_path] for mount in definition.volume_mounts if not mount.read_only)
        record.root = await self._open_root(record, image)
        rooted = record.root is not None
        # On a root of its own, files belong to the ids of all such roots, and none to its user.
        project = json.dumps(written) if written and not rooted else None
        owner = self._users.take(record.sandbox_id, project)
        uid = ids().root if rooted else owner
        workdir = posixpath.normpath(f"/{(definition.workdir or image.config.workdir or HOME).lstrip('/')}")
        places = [workdir, *(mount.mount_path.rstrip("/") for mount in definition.volume_mounts)]
        files = await self._files_of(record) if definition.mount_ids else None
        if files is not None:
            trees = [image.directory / layouts.TREE] if image.directory is not None else []
            if record.root is not None:
                trees = record.root.below
            places += await asyncio.to_thread(layouts.common_directories, files, trees)
        own = [] if rooted else image.binds(places)
        binds = [BindMount(path, target, read_only=True) for path, target in own]
        if files is not None:
            file_binds = layouts.tree_binds(files, split=places)
            binds += [BindMount(path, target, read_only=True) for path, target in file_binds]
        limits = limits_of(
            memory_mb=definition.resources.memory_mb,
            memory_mb_max=definition.resources.memory_mb_max,
            milli_cpu=definition.resources.milli_cpu,
            milli_cpu_max=definition.resources.milli_cpu_max,
        )
        mount_paths = [mount.mount_path for mount in definition.volume_mounts]
        for mount in definition.volume_mounts:
            copy = await self._copies.mount(
                mount.volume_id,
                sub_path=mount.sub_path.strip("/"),
                read_only=mount.read_only,
                owner_uid=uid,
                max_stored_bytes=limits.stored_bytes,
                holds_mounts=any(place.startswith(mount.mount_path.rstrip("/") + "/") for place in mount_paths),
            )
            if rooted:
                copy.path.chmod(0o755)  # the image may have several users
            record.mounts[mount.mount_path.rstrip("/")] = copy
            binds.append(BindMount(copy.path, mount.mount_path, mount.read_only, partial(overlay_of, copy)))
        return SandboxSpec(
            sandbox_id=record.sandbox_id,
            uid=uid,
            mounts=tuple(binds),
            env=env,
            fixed_env={
                **placement_env(record.task_id, definition.image_id),
                "MODAL_SANDBOX_ID": record.sandbox_id,
            },
            directories=(
                *image.config.directories,
                *(() if rooted else self._empty_workdir(workdir, image, files, definition)),
            ),
            python=image.python,
            workdir=workdir,
            root=record.root,
            owner=owner,
            user=image.config.user,
            limits=limits,
        )

    async def why_shared(self, image: Image) -> str:
        """Return why the sandboxes of an image share this machine's system, empty if they do not."""
        return await self._own_roots.why_shared(image.config)

    async def _open_root(self, record: Record, image: Image) -> Root | None:
        try:
            told = partial(self._on_notice, record)
            return await self._own_roots.open(image.config, image.directory, told=told)
        except (LayerError, NoMachineBaseError, OSError) as error:
            raise SandboxStartFailedError(f"its root file system cannot be made: {error}") from error

    def _empty_workdir(self, workdir: str, image: Image, files: Path | None, definition: api_pb2.Sandbox) -> list[str]:
        """Return [workdir] if it must be made as an empty directory, because nothing else in the sandbox has it."""
        path = PurePosixPath(workdir)
        writable = [HOME, "/tmp", *image.config.directories, *(mount.mount_path for mount in definition.volume_mounts)]  # noqa: S108  # inside
        if layouts.is_system(path) or workdir in ("/", "/etc") or any(map(path.is_relative_to, writable)):
            return []
        trees = [tree for tree in (files, image.directory and image.directory / layouts.TREE) if tree is not None]
        return [] if any(_has_files(tree / workdir.lstrip("/")) for tree in trees) else [workdir]

    async def _files_of(self, record: Record) -> Path:
        """Copy the files of a sandbox's mounts (`add_local_*` without copy=True) to where its user may read them."""
        record.files = Path(tempfile.mkdtemp(dir=self._files))
        tree = record.files / "tree"
        tree.mkdir()
        await asyncio.to_thread(self._lay_out, list(record.definition.mount_ids), tree)
        for directory in (record.files, tree, *(path for path in tree.rglob("*") if path.is_dir())):
            directory.chmod(0o755)
        return tree


def overlay_of(copy: WorkingCopy) -> Written | None:
    """Return what the watchdog of a sandbox has to know about a mount that is an overlay; None where there is none."""
    layers = copy.layers
    if layers is None:
        return None
    try:
        block = os.statvfs(layers.written).f_frsize
    except FileNotFoundError:
        return None
    return Written(layers.written, Usage(layers.size + layers.entries * block, layers.entries))


def _has_files(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())

"""Snapshot RPCs of the task command router: take one of a sandbox or a directory, mount one, unmount it.

A sandbox without a root file system of its own can write to /tmp, /root and its volumes only. So a snapshot of its file
system holds /tmp and /root, and only snapshots of directories can be mounted in it, below these two.
"""

import posixpath
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2
from modal_proto import task_command_router_pb2 as tcr

from workbench.local_cloud.base.errors import CloudError, Reason, failed_precondition, invalid, not_found
from workbench.local_cloud.images.images import Images
from workbench.local_cloud.rootfs.layers import LayerError
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.image_mounts import ImageMounts
from workbench.local_cloud.sandboxes.sandbox_records import Mounted, Record
from workbench.local_cloud.sandboxes.sandbox_snapshots import WRITABLE, Snapshot, SnapshotError, Snapshots
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes
from workbench.local_cloud.server.callers import caller

_DEFAULT_TTL_S = 30 * 24 * 3600  # Modal's
_NO_EXPIRY = -1
_MAX_ID = 128
_MAX_PATH_BYTES = 4096
TakeRequest = tcr.TaskSnapshotFilesystemRequest | tcr.TaskSnapshotDirectoryRequest


class SnapshotRpcs:
    """Handles the snapshot RPCs, each for the sandbox that the caller's token is valid for."""

    def __init__(self, sandboxes: Sandboxes, images: Images, snapshots: Snapshots) -> None:
        self._sandboxes = sandboxes
        self._images = images
        self._snapshots = snapshots
        self._mounts = ImageMounts(images.layers)

    async def TaskSnapshotFilesystem(
        self, request: tcr.TaskSnapshotFilesystemRequest, context: Any
    ) -> tcr.TaskSnapshotFilesystemResponse:
        """Store what a sandbox has written outside of its volumes as an image."""
        image_id = await self._take(request, "filesystem", WRITABLE, top="/")
        return tcr.TaskSnapshotFilesystemResponse(image_id=image_id)

    async def TaskSnapshotDirectory(
        self, request: tcr.TaskSnapshotDirectoryRequest, context: Any
    ) -> tcr.TaskSnapshotDirectoryResponse:
        """Store one directory of a sandbox as an image that can be mounted."""
        path = _path(request.path)
        return tcr.TaskSnapshotDirectoryResponse(image_id=await self._take(request, "directory", (path,), top=path))

    async def TaskMountDirectory(self, request: tcr.TaskMountDirectoryRequest, context: Any) -> empty_pb2.Empty:
        """Mount an image at a path of a running sandbox, private and writable; the files there are hidden."""
        record, sandbox = self._running(request)
        path = _path(request.path)
        if record.root is None and not path.startswith(tuple(f"{top}/" for top in WRITABLE)):
            raise invalid(f"On the local cloud, an image can be mounted below {' or '.join(WRITABLE)}, not at {path}.")
        for target in (*record.mounts, *record.mounted):
            if f"{path}/".startswith(f"{target}/") or target.startswith(f"{path}/"):
                raise failed_precondition(f"An image cannot be mounted at {path}: something is mounted at {target}.")
        snapshot = self._find(request.image_id)
        is_directory = snapshot is not None and snapshot.kind == "directory"
        if record.root is None and not is_directory:
            raise CloudError(
                Reason.UNIMPLEMENTED,
                f"On the local cloud, Sandbox.mount_image mounts {request.image_id[:64] or 'an empty image'}, which "
                "Sandbox.snapshot_directory has not made, only in a sandbox whose image has a root file system of its "
                'own: give that image a step that needs one, such as run_commands("echo | cat").',
            )
        record.mounted[path] = Mounted(path)
        try:
            if record.root is None:
                assert snapshot is not None
                await self._snapshots.unpack(sandbox, snapshot, path, mount=True)
            else:
                await self._mount(record, sandbox, snapshot, request.image_id, path)
        except BaseException as error:
            record.mounted.pop(path, None)
            if isinstance(error, SnapshotError | LayerError | OSError):
                raise failed_precondition(
                    f"The image cannot be mounted at {path}: {str(error).rstrip('.')}."
                ) from error
            raise
        return empty_pb2.Empty()

    async def _mount(
        self, record: Record, sandbox: Sandbox, snapshot: Snapshot | None, image_id: str, path: str
    ) -> None:
        """Mount an image's layers, and unpack a snapshot's files there. Undone if that fails.

        `Image.from_scratch()` has no id.
        """
        keys: tuple[str, ...] = ()
        if image_id and (snapshot is None or snapshot.kind != "directory"):
            below = snapshot.base_image_id if snapshot is not None and snapshot.kind == "filesystem" else image_id
            keys = (await self._images.rooted(below)).config.layers
        await self._mounts.mount(record, sandbox, keys, path, owner="" if keys else sandbox.user)
        if snapshot is not None and snapshot.kind != "layer":
            try:
                await self._snapshots.unpack(sandbox, snapshot, record.mounted[path].inside)
            except BaseException:
                await self._mounts.unmount(record, sandbox, path)
                raise

    async def TaskUnmountDirectory(self, request: tcr.TaskUnmountDirectoryRequest, context: Any) -> empty_pb2.Empty:
        """Unmount a snapshot; what was changed in it is lost."""
        record, sandbox = self._running(request)
        path = _path(request.path)
        if path not in record.mounted:
            raise invalid(f"No image is mounted at {path}.")
        try:
            if record.root is None:
                await self._snapshots.unmount(sandbox, path)
            else:
                await self._mounts.unmount(record, sandbox, path)
        except (SnapshotError, LayerError, OSError) as error:
            raise failed_precondition(f"The image at {path} cannot be unmounted: {error}.") from error
        record.mounted.pop(path, None)
        return empty_pb2.Empty()

    async def _take(
        self,
        request: TakeRequest,
        kind: str,
        paths: tuple[str, ...],
        *,
        top: str,
    ) -> str:
        record, sandbox = self._running(request)
        if not 0 < len(request.snapshot_id) <= _MAX_ID:
            raise invalid(f"snapshot_id must have 1 to {_MAX_ID} characters, not {len(request.snapshot_id)}.")
        ttl_s = float(request.ttl_seconds) if request.HasField("ttl_seconds") else float(_DEFAULT_TTL_S)
        if ttl_s <= 0 and ttl_s != _NO_EXPIRY:
            raise invalid(f"ttl must be positive, or None to keep the snapshot for ever, not {ttl_s:g}.")
        taken = self._snapshots.taken(record.task_id, request.snapshot_id)
        if taken is not None:  # a retry
            return taken.image_id
        base = record.definition.image_id
        if kind == "filesystem" and record.root is not None:
            try:
                layer = await self._images.layers.copy(record.root)
                label = f"Snapshot of the sandbox {record.sandbox_id}"
                image_id = await self._images.on_top(base, layer, label=label)
            except LayerError as error:
                raise failed_precondition(f"The snapshot cannot be taken: {error}.") from error
            return self._keep(Snapshot(image_id, "layer", base, ""), record, request, ttl_s)
        try:
            sha256 = await self._snapshots.pack(sandbox, paths, top=top, exclude=list(record.mounts))
        except SnapshotError as error:
            raise failed_precondition(f"The snapshot cannot be taken: {error}.") from error
        label = f'LABEL local-cloud.snapshot="{record.task_id} {request.snapshot_id!r}"'
        image = api_pb2.Image(dockerfile_commands=["FROM base", label])
        image.base_images.add(docker_tag="base", image_id=base)
        image_id = await self._images.get_or_create(image)  # ready at once, since a label needs no build
        return self._keep(Snapshot(self._images.built(image_id).image_id, kind, base, sha256), record, request, ttl_s)

    def _keep(self, snapshot: Snapshot, record: Record, request: TakeRequest, ttl_s: float) -> str:
        self._snapshots.keep(
            snapshot,
            task_id=record.task_id,
            snapshot_id=request.snapshot_id,
            ttl_s=None if ttl_s == _NO_EXPIRY else ttl_s,
        )
        return snapshot.image_id

    def _find(self, image_id: str) -> Snapshot | None:
        if self._snapshots.is_expired(image_id):
            raise not_found(f"Image {image_id}, a snapshot of a sandbox, has expired: take a new one.")
        return self._snapshots.find(image_id)

    def _running(self, request: Any) -> tuple[Record, Sandbox]:
        if caller.get().task_id != request.task_id:
            raise CloudError(Reason.PERMISSION_DENIED, f"This token is not for the task {request.task_id[:64]}.")
        record = self._sandboxes.by_task(request.task_id)
        if request.container_id:
            raise CloudError(Reason.UNIMPLEMENTED, "Sidecar containers are not implemented by the local cloud.")
        if "customer_supplied_encryption_key" in request.DESCRIPTOR.fields_by_name and request.HasField(
            "customer_supplied_encryption_key"
        ):
            raise CloudError(
                Reason.UNIMPLEMENTED, "_experimental_encryption_key is not implemented by the local cloud."
            )
        if record.sandbox is None or record.ending is not None:
            raise failed_precondition(f"The sandbox {record.sandbox_id} has ended.")
        return record, record.sandbox


def _path(raw: bytes) -> str:
    """Return an absolute path in normal form; raises CloudError INVALID_ARGUMENT."""
    try:
        path = raw.decode()
    except UnicodeDecodeError:
        raise invalid(f"A path must be UTF-8, unlike {raw[:100]!r}.") from None
    if not path.startswith("/") or "\0" in path or len(raw) > _MAX_PATH_BYTES:
        raise invalid(f"A path must be absolute, without NUL and at most {_MAX_PATH_BYTES} bytes, not {path[:100]!r}.")
    if ".." in path.split("/") or (path := posixpath.normpath("/" + path.strip("/"))) == "/":
        raise invalid(f"A path must name a directory other than '/', without '..', not {path[:100]!r}.")
    return path

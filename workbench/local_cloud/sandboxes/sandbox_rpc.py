"""Sandbox RPCs of the control plane: create, wait, terminate, names, tags and lists."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.images.images import Images
from workbench.local_cloud.objects.secrets import SecretRpcs
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import SandboxStartFailedError
from workbench.local_cloud.sandboxes.network.egress_policy import EgressPolicy
from workbench.local_cloud.sandboxes.port_rpc import ports, probe, tunnels
from workbench.local_cloud.sandboxes.router_url import Url
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.sandboxes.sandbox_snapshots import SnapshotError, Snapshots
from workbench.local_cloud.sandboxes.sandboxes import Prepare, Sandboxes
from workbench.local_cloud.server.callers import Authenticator
from workbench.local_cloud.server.unsupported import refuse_options, refuse_sandbox_options
from workbench.local_cloud.store.names import DEFAULT_ENVIRONMENT
from workbench.local_cloud.volumes.committed import clean
from workbench.local_cloud.workspace.proxies import check_proxy

_MAX_WAIT_S = 60.0
_MAX_NAME = 63
_MAX_TAGS = 64
_MAX_TAG = 256
_PAGE = 100
_REQUEST = ("app_id", "definition", "tags", "cloud_bucket_mount_credentials", "secret_sources")


class SandboxRpcs:
    """Handles the RPCs of V2 sandboxes."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        apps: Apps,
        images: Images,
        secrets: SecretRpcs,
        authenticator: Authenticator,
        *,
        snapshots: Snapshots,
        router_url: Url,
    ) -> None:
        self._sandboxes = sandboxes
        self._apps = apps
        self._images = images
        self._secrets = secrets
        self._authenticator = authenticator
        self._snapshots = snapshots
        self._router_url = router_url

    async def SandboxCreateV2(
        self, request: api_pb2.SandboxCreateV2Request, context: Any
    ) -> api_pb2.SandboxCreateV2Response:
        """Start a sandbox; options that are not implemented are refused by name before anything is made."""
        record = await self.create(request)
        return api_pb2.SandboxCreateV2Response(
            sandbox_id=record.sandbox_id,
            task_id=record.task_id,
            metadata=api_pb2.SandboxHandleMetadata(app_id=record.app_id),
            tunnels=tunnels(record),
            command_router_access=api_pb2.CommandRouterAccess(
                jwt=self._token(record), url=self._router_url.for_caller(context)
            ),
        )

    async def create(self, request: api_pb2.SandboxCreateV2Request, *, sandbox_id: str | None = None) -> Record:
        """Start a sandbox with the id `sandbox_id`, or a new one of V2.

        Raises CloudError: INVALID_ARGUMENT for a bad definition, NOT_FOUND for an app, image, secret or volume, and as
        `Sandboxes.create` does.
        """
        definition = request.definition
        app = self._apps.get(request.app_id)
        refuse_options("Sandbox.create", request, _REQUEST)
        refuse_sandbox_options(definition)
        check_proxy(definition.proxy_id)
        if len(definition.name) > _MAX_NAME:
            raise invalid(f"A sandbox's name is at most {_MAX_NAME} characters, not {len(definition.name)}.")
        if len({mount.volume_id for mount in definition.volume_mounts}) != len(definition.volume_mounts):
            raise invalid("The same volume cannot be mounted twice in one sandbox.")
        for mount in definition.volume_mounts:
            clean(mount.sub_path)
            if not clean(mount.mount_path) or not mount.mount_path.startswith("/"):
                raise invalid(
                    f"A volume must be mounted at an absolute path other than '/', not at '{mount.mount_path[:200]}'."
                )
        image = self._images.built(definition.image_id)
        env = {
            **image.env(),
            **self._secrets.resolve(definition.secret_ids),
            **self._secrets.resolve(request.secret_sources),
        }
        egress = egress_policy(definition.network_access)
        if definition.block_network:
            egress = EgressPolicy.blocked()
        for port in egress.web_ports:
            if not self._sandboxes.serves_web(port):
                raise invalid(f"127.0.0.1:{port} is not the address of a web function of this cloud.")
        return await self._sandboxes.create(
            sandbox_id=sandbox_id,
            app_id=app.app_id,
            app_name=app.name or app.description,
            environment=app.environment,
            definition=definition,
            tags=_tags(request.tags),
            env=env,
            image=image,
            egress=egress,
            ports=ports(definition),
            probe=probe(definition),
            prepare=self._with_files_of(definition.image_id),
        )

    def _with_files_of(self, image_id: str) -> Prepare | None:
        """Return what unpacks a snapshot into a new sandbox; None for an image that is no snapshot.

        Raises CloudError: NOT_FOUND for a snapshot that has expired, INVALID_ARGUMENT for one of a directory.
        """
        if self._snapshots.is_expired(image_id):
            raise not_found(f"Image {image_id}, a snapshot of a sandbox, has expired: take a new one.")
        snapshot = self._snapshots.find(image_id)
        if snapshot is None or snapshot.kind == "layer":
            return None
        if snapshot.kind != "filesystem":
            raise invalid(
                f"Image {image_id} is made by Sandbox.snapshot_directory: no sandbox can start from it, mount it with "
                "Sandbox.mount_image."
            )

        async def prepare(sandbox: Sandbox) -> None:
            try:
                await self._snapshots.unpack(sandbox, snapshot, "/")
            except SnapshotError as error:
                raise SandboxStartFailedError(f"its image cannot be unpacked: {error}") from error

        return prepare

    def _token(self, record: Record) -> str:
        return self._authenticator.sign(task_id=record.task_id)

    async def SandboxGetCommandRouterAccess(
        self, request: api_pb2.SandboxGetCommandRouterAccessRequest, context: Any
    ) -> api_pb2.SandboxGetCommandRouterAccessResponse:
        """Return a new token for the router, for one sandbox, and the router's URL."""
        record = (
            self._sandboxes.get(request.sandbox_id) if request.sandbox_id else self._sandboxes.by_task(request.task_id)
        )
        return api_pb2.SandboxGetCommandRouterAccessResponse(
            jwt=self._token(record), url=self._router_url.for_caller(context)
        )

    async def SandboxWaitV2(self, request: api_pb2.SandboxWaitRequest, context: Any) -> api_pb2.SandboxWaitResponse:
        """Wait for a sandbox's end; the answer has no result while it still runs."""
        record = self._sandboxes.get(request.sandbox_id)
        if request.timeout > 0 and record.result is None:
            try:
                await asyncio.wait_for(record.ended.wait(), min(request.timeout, _MAX_WAIT_S))
            except TimeoutError:
                pass
        metadata = api_pb2.SandboxHandleMetadata(result=record.result, app_id=record.app_id)
        return api_pb2.SandboxWaitResponse(result=record.result, metadata=metadata)

    async def SandboxTerminateV2(
        self, request: api_pb2.SandboxTerminateRequest, context: Any
    ) -> api_pb2.SandboxTerminateResponse:
        """Terminate a sandbox."""
        record = self._sandboxes.get(request.sandbox_id)
        existing = record.result
        await self._sandboxes.terminate(record)
        return api_pb2.SandboxTerminateResponse(existing_result=existing)

    async def SandboxGetTaskIdV2(
        self, request: api_pb2.SandboxGetTaskIdRequest, context: Any
    ) -> api_pb2.SandboxGetTaskIdResponse:
        """Return a sandbox's task id, which it has from its creation on."""
        record = self._sandboxes.get(request.sandbox_id)
        return api_pb2.SandboxGetTaskIdResponse(task_id=record.task_id, task_result=record.result)

    async def SandboxGetFromNameV2(
        self, request: api_pb2.SandboxGetFromNameRequest, context: Any
    ) -> api_pb2.SandboxGetFromNameResponse:
        """Find a sandbox by its app's name and its own name."""
        record = self._sandboxes.find(
            request.app_name,
            request.sandbox_name,
            environment=request.environment_name or DEFAULT_ENVIRONMENT,
            finished=request.include_terminated,
        )
        if record is None:
            raise not_found(f"Sandbox '{request.sandbox_name}' of app '{request.app_name}' not found.")
        return api_pb2.SandboxGetFromNameResponse(
            sandbox_id=record.sandbox_id,
            metadata=api_pb2.SandboxHandleMetadata(result=record.result, app_id=record.app_id),
        )

    async def SandboxListV2(self, request: api_pb2.SandboxListRequest, context: Any) -> api_pb2.SandboxListResponse:
        """List a page of sandboxes, newest first."""
        return self.page(request, lambda _: True)

    def page(
        self, request: api_pb2.SandboxListRequest, is_listed: Callable[[Record], bool]
    ) -> api_pb2.SandboxListResponse:
        """Return the newest 100 sandboxes that match a request and for which `is_listed` returns True."""
        wanted = {tag.tag_name: tag.tag_value for tag in request.tags}
        response = api_pb2.SandboxListResponse()
        for record in self._sandboxes.all():
            if (
                (request.app_id and record.app_id != request.app_id)
                or (request.before_timestamp and record.created_at >= request.before_timestamp)
                or (record.result is not None and not request.include_finished)
                or (request.environment_name and record.environment != request.environment_name)
                or not wanted.items() <= record.tags.items()
                or not is_listed(record)
            ):
                continue
            response.sandboxes.add(
                id=record.sandbox_id,
                created_at=record.created_at,
                app_id=record.app_id,
                name=record.name,
                tags=[api_pb2.SandboxTag(tag_name=key, tag_value=value) for key, value in record.tags.items()],
                image_id=record.definition.image_id,
                timeout_secs=record.definition.timeout_secs,
                idle_timeout_secs=record.definition.idle_timeout_secs,
                ready_at=record.readiness.ready_at if record.readiness is not None else 0,
                metadata=api_pb2.SandboxHandleMetadata(app_id=record.app_id, result=record.result),
                task_info=api_pb2.TaskInfo(
                    id=record.task_id,
                    started_at=record.created_at,
                    finished_at=record.finished_at,
                    result=record.result,
                    sandbox_id=record.sandbox_id,
                ),
            )
            if len(response.sandboxes) >= _PAGE:
                break
        return response

    async def SandboxSetName(
        self, request: api_pb2.SandboxSetNameRequest, context: Any
    ) -> api_pb2.SandboxSetNameResponse:
        """Name or rename a running sandbox."""
        if not 0 < len(request.name) <= _MAX_NAME:
            raise invalid(f"A sandbox's name has 1 to {_MAX_NAME} characters, not {len(request.name)}.")
        self._sandboxes.rename(self._sandboxes.get(request.sandbox_id), request.name)
        return api_pb2.SandboxSetNameResponse()

    async def SandboxTagsSetV2(self, request: api_pb2.SandboxTagsSetRequest, context: Any) -> empty_pb2.Empty:
        """Replace a sandbox's tags."""
        record = self._sandboxes.get(request.sandbox_id)
        record.tags = _tags(request.tags)
        self._sandboxes.note(record)
        return empty_pb2.Empty()

    async def SandboxTagsGetV2(
        self, request: api_pb2.SandboxTagsGetRequest, context: Any
    ) -> api_pb2.SandboxTagsGetResponse:
        """Return a sandbox's tags."""
        tags = self._sandboxes.get(request.sandbox_id).tags
        return api_pb2.SandboxTagsGetResponse(
            tags=[api_pb2.SandboxTag(tag_name=key, tag_value=value) for key, value in tags.items()]
        )


def _tags(tags: Iterable[api_pb2.SandboxTag]) -> dict[str, str]:
    """Return tags as a dict; raises CloudError INVALID_ARGUMENT for too many, and for ones that are too long."""
    found = {tag.tag_name: tag.tag_value for tag in tags}
    if len(found) > _MAX_TAGS or any(not 0 < len(name) <= _MAX_TAG or len(found[name]) > _MAX_TAG for name in found):
        raise invalid(
            f"A sandbox has at most {_MAX_TAGS} tags, each with a name of 1 to {_MAX_TAG} characters and a value of at "
            f"most {_MAX_TAG}; {len(found)} were given."
        )
    return found


def egress_policy(access: api_pb2.NetworkAccess) -> EgressPolicy:
    """Return the egress policy of a request; raises CloudError INVALID_ARGUMENT, which names a bad value."""
    match access.network_access_type:
        case api_pb2.NetworkAccess.BLOCKED:
            return EgressPolicy.blocked()
        case api_pb2.NetworkAccess.ALLOWLIST:
            try:
                return EgressPolicy.allowlist(access.allowed_cidrs, access.allowed_domains)
            except ValueError as error:
                raise invalid(f"{error}.") from None
        case _:
            return EgressPolicy.open()

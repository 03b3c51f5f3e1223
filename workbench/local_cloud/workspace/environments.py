"""Environment RPCs: separate sets of names within the one workspace."""

import re
from collections.abc import Callable
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import failed_precondition, invalid
from workbench.local_cloud.server.unsupported import refuse_options
from workbench.local_cloud.store.names import DEFAULT_ENVIRONMENT, Objects

IMAGE_BUILDER_VERSION = "2025.06"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KIND, _EVERYWHERE = "environment", "*"


class EnvironmentRpcs:
    """Handles the environment RPCs; the default environment always exists."""

    def __init__(self, objects: Objects, *, renamed: Callable[[str, str], None]) -> None:
        """`renamed` gets an environment's old and new name, after its objects and apps have moved."""
        self._objects = objects
        self._renamed = renamed
        self._objects.get_or_create(
            _KIND,
            "en",
            environment=_EVERYWHERE,
            name=DEFAULT_ENVIRONMENT,
            creation_type=api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
        )

    async def EnvironmentGetOrCreate(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, context: Any
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        """Find or create an environment by name; the empty name means the default one."""
        name = _checked(request.deployment_name or DEFAULT_ENVIRONMENT)
        environment_id, _ = self._objects.get_or_create(
            _KIND, "en", environment=_EVERYWHERE, name=name, creation_type=request.object_creation_type
        )
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=environment_id,
            metadata=api_pb2.EnvironmentMetadata(
                name=name, settings=api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER_VERSION)
            ),
        )

    async def EnvironmentList(self, request: empty_pb2.Empty, context: Any) -> api_pb2.EnvironmentListResponse:
        """List the environments."""
        items = [
            api_pb2.EnvironmentListItem(
                name=name,
                created_at=created_at,
                default=name == DEFAULT_ENVIRONMENT,
                environment_id=environment_id,
                image_builder_version=IMAGE_BUILDER_VERSION,
            )
            for environment_id, name, created_at in self._objects.list(_KIND, environment=_EVERYWHERE)
        ]
        return api_pb2.EnvironmentListResponse(items=items)

    async def EnvironmentCreate(self, request: api_pb2.EnvironmentCreateRequest, context: Any) -> empty_pb2.Empty:
        """Make an environment; raises CloudError ALREADY_EXISTS for a name that is taken."""
        if request.is_managed or request.environment_type == api_pb2.ENVIRONMENT_TYPE_PUBLIC:
            raise invalid("Restricted and public environments are not implemented by the local cloud: it has one user.")
        refuse_options("The environment", request, ("name", "environment_type"))
        self._objects.get_or_create(
            _KIND,
            "en",
            environment=_EVERYWHERE,
            name=_checked(request.name),
            creation_type=api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS,
        )
        return empty_pb2.Empty()

    async def EnvironmentUpdate(
        self, request: api_pb2.EnvironmentUpdateRequest, context: Any
    ) -> api_pb2.EnvironmentListItem:
        """Rename an environment; everything in it moves along. The default one keeps its name."""
        environment_id = self._objects.environment_id(request.current_name)
        if request.HasField("web_suffix"):
            raise invalid("Web suffixes are not implemented by the local cloud: its addresses are ports.")
        refuse_options("The environment", request, ("current_name", "name"))
        name = request.current_name
        if request.HasField("name"):
            if name == DEFAULT_ENVIRONMENT:
                raise failed_precondition(f"The environment '{name}' is the default one and cannot be renamed.")
            name = _checked(request.name.value)
            self._objects.rename_environment(environment_id, request.current_name, name)
            self._renamed(request.current_name, name)
        return api_pb2.EnvironmentListItem(name=name, environment_id=environment_id)

    async def EnvironmentDelete(self, request: api_pb2.EnvironmentDeleteRequest, context: Any) -> empty_pb2.Empty:
        """Delete an empty environment; raises CloudError FAILED_PRECONDITION for any other, and the default one."""
        environment_id = self._objects.environment_id(request.name)
        if request.name == DEFAULT_ENVIRONMENT:
            raise failed_precondition(f"The environment '{request.name}' is the default one and cannot be deleted.")
        if held := self._objects.held_by(request.name):
            raise failed_precondition(
                f"The environment '{request.name}' still holds {', '.join(held)}: stop and delete those first."
            )
        self._objects.delete(_KIND, environment_id)
        return empty_pb2.Empty()


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise invalid(
            f"Invalid environment name {name[:64]!r}: use 1 to 64 letters, digits, dashes, dots and underscores, the "
            "first a letter or digit."
        )
    return name

"""What the RPCs of dicts and queues have in common: names, ids, lists, heartbeats, and which objects are abandoned."""

import re

from modal_proto import api_pb2

from workbench.local_cloud.base.errors import invalid
from workbench.local_cloud.store.ephemeral import Ephemeral
from workbench.local_cloud.store.names import DEFAULT_ENVIRONMENT, Objects

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")  # the SDK's own rule (name_utils.py)
_CREATION_TYPES = (
    api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
    api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS,
    api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
)


class Named:
    """The named and ephemeral objects of one kind. Deleting one deletes its contents, by foreign keys."""

    def __init__(self, kind: str, prefix: str, objects: Objects, ephemeral: Ephemeral) -> None:
        self._kind = kind
        self._prefix = prefix
        self._objects = objects
        self._ephemeral = ephemeral

    def get_or_create(self, name: str, *, environment: str, creation_type: int) -> tuple[str, bool]:
        """Return (object id, whether it was created now). `creation_type` is the protocol's ObjectCreationType.

        Raises CloudError: INVALID_ARGUMENT for a bad name or creation type, NOT_FOUND when the object must exist or its
        environment does not, ALREADY_EXISTS when the object must not exist.
        """
        if creation_type not in _CREATION_TYPES:
            raise invalid(f"A {self._kind} cannot be made with the creation type {creation_type}: use another one.")
        anonymous = creation_type == api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL
        for word in (environment or DEFAULT_ENVIRONMENT, *(() if anonymous else (name,))):
            if not _NAME.fullmatch(word):
                raise invalid(f"Invalid name {word[:64]!r}: use 1 to 64 letters, digits, dashes, dots and underscores.")
        object_id, created = self._objects.get_or_create(
            self._kind, self._prefix, environment=environment, name=name, creation_type=creation_type
        )
        if anonymous:
            self._ephemeral.add(object_id)
        return object_id, created

    def describe(self, object_id: str) -> tuple[str, api_pb2.CreationInfo]:
        """Return (name or "", when and by whom the object was made); raises CloudError NOT_FOUND."""
        _, name, created_at = self._objects.describe(self._kind, object_id)
        return name, api_pb2.CreationInfo(created_at=created_at, created_by="local")

    def page(self, environment: str, pagination: api_pb2.ListPagination) -> list[tuple[str, str, float]]:
        """Return one page of named objects as (object id, name, created_at in Unix seconds), newest first."""
        return self._objects.list(
            self._kind,
            environment=environment,
            created_before=pagination.created_before,
            limit=max(0, pagination.max_objects),
        )

    def heartbeat(self, object_id: str) -> None:
        """Record a heartbeat of an object's owner; raises CloudError NOT_FOUND."""
        self._objects.describe(self._kind, object_id)
        self._ephemeral.touch(object_id)

    def delete(self, object_id: str) -> None:
        """Delete an object and its contents; raises CloudError NOT_FOUND."""
        self._objects.delete(self._kind, object_id)

    def abandoned(self) -> list[str]:
        """Return the ids of ephemeral objects whose owner has sent no heartbeat for too long."""
        return self._ephemeral.abandoned(self._kind)

"""Secrets: named sets of environment variables. Only containers and sandboxes get their values, clients never do."""

import json
import time
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.names import Objects

_DDL = """
CREATE TABLE IF NOT EXISTS secrets (
  secret_id TEXT PRIMARY KEY, env TEXT NOT NULL, last_used_at REAL NOT NULL DEFAULT 0
);
"""


class SecretRpcs:
    """Handles the secret RPCs, and resolves secrets into the environment of containers and sandboxes."""

    def __init__(self, database: Database, objects: Objects) -> None:
        self._db = database
        self._objects = objects
        database.script(_DDL)

    def resolve(self, sources: Any) -> dict[str, str]:
        """Return the environment variables of `sources`: secrets' ids and inline sets, of which later ones win.

        Raises CloudError NOT_FOUND.
        """
        env: dict[str, str] = {}
        for source in sources:
            if isinstance(source, str):
                env.update(self._env(source))
            elif source.WhichOneof("source") == "secret_id":
                env.update(self._env(source.secret_id))
            else:
                env.update(source.env.contents)
        return env

    def _env(self, secret_id: str) -> dict[str, str]:
        row = self._db.one("SELECT env FROM secrets WHERE secret_id=?", (secret_id,))
        if row is None:
            raise not_found(f"Secret {secret_id} not found.")
        self._db.execute("UPDATE secrets SET last_used_at=? WHERE secret_id=?", (time.time(), secret_id))
        env: dict[str, str] = json.loads(row["env"])
        return env

    async def SecretGetOrCreate(
        self, request: api_pb2.SecretGetOrCreateRequest, context: Any
    ) -> api_pb2.SecretGetOrCreateResponse:
        """Find or create a secret; raises CloudError NOT_FOUND when it lacks a required key."""
        overwrite = request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS
        secret_id, created = self._objects.get_or_create(
            "secret",
            "st",
            environment=request.environment_name,
            name=request.deployment_name,
            creation_type=request.object_creation_type,
        )
        if created or overwrite:
            self._db.execute(
                "INSERT INTO secrets (secret_id, env) VALUES (?, ?) "
                "ON CONFLICT (secret_id) DO UPDATE SET env=excluded.env",
                (secret_id, json.dumps(dict(request.env_dict))),
            )
        row = self._db.one("SELECT env FROM secrets WHERE secret_id=?", (secret_id,))
        keys = set(json.loads(row["env"])) if row is not None else set()
        if missing := sorted(set(request.required_keys) - keys):
            raise not_found(f"Secret is missing key(s): {', '.join(missing)} ('{request.deployment_name}').")
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id, metadata=self._metadata(secret_id))

    def _metadata(self, secret_id: str) -> api_pb2.SecretMetadata:
        environment, name, created_at = self._objects.describe("secret", secret_id)
        row = self._db.one("SELECT env, last_used_at FROM secrets WHERE secret_id=?", (secret_id,))
        return api_pb2.SecretMetadata(
            name=name,
            environment_name=environment,
            keys=sorted(json.loads(row["env"])) if row is not None else [],
            last_used_at=row["last_used_at"] if row is not None else 0,
            creation_info=api_pb2.CreationInfo(created_at=created_at, created_by="local"),
        )

    async def SecretList(self, request: api_pb2.SecretListRequest, context: Any) -> api_pb2.SecretListResponse:
        """List named secrets, newest first, without their values."""
        response = api_pb2.SecretListResponse(environment_name=request.environment_name)
        page = self._objects.list(
            "secret",
            environment=request.environment_name,
            created_before=request.pagination.created_before,
            limit=request.pagination.max_objects,
        )
        for secret_id, name, created_at in page:
            metadata = self._metadata(secret_id)
            response.items.add(
                label=name,
                created_at=created_at,
                last_used_at=metadata.last_used_at,
                environment_name=metadata.environment_name,
                secret_id=secret_id,
                metadata=metadata,
            )
        return response

    async def SecretGetInfo(self, request: api_pb2.SecretGetInfoRequest, context: Any) -> api_pb2.SecretGetInfoResponse:
        """Describe one secret without its values."""
        return api_pb2.SecretGetInfoResponse(metadata=self._metadata(request.secret_id))

    async def SecretUpdate(self, request: api_pb2.SecretUpdateRequest, context: Any) -> empty_pb2.Empty:
        """Set the keys that have a value in the request, and remove those that have none."""
        env = self._env(request.secret_id)
        for update in request.updates:
            if not update.key:
                raise invalid("A secret's key must not be empty.")
            if update.HasField("value"):
                env[update.key] = update.value
            else:
                env.pop(update.key, None)
        self._db.execute("UPDATE secrets SET env=? WHERE secret_id=?", (json.dumps(env), request.secret_id))
        return empty_pb2.Empty()

    async def SecretDelete(self, request: api_pb2.SecretDeleteRequest, context: Any) -> empty_pb2.Empty:
        """Delete a secret and its values."""
        with self._db.transaction():
            self._objects.delete("secret", request.secret_id)
            self._db.execute("DELETE FROM secrets WHERE secret_id=?", (request.secret_id,))
        return empty_pb2.Empty()

"""Secrets: sets of environment variables. Only containers and sandboxes get their values, clients never do.

Those without a name, which programs make of their own values, are deleted when nothing can use them any more.
"""

import json
import time
from collections.abc import Callable
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
CREATE TABLE IF NOT EXISTS secret_owners (
  secret_id TEXT PRIMARY KEY REFERENCES secrets ON DELETE CASCADE, app_id TEXT NOT NULL
);
"""

OWNED_KEPT_S = 10 * 60  # after its last use, once its app is stopped: a client may be about to use it
UNOWNED_KEPT_S = 24 * 60 * 60  # after its last use: nothing else tells whether a client still has it


class SecretRpcs:
    """Handles the secret RPCs, and resolves secrets into the environment of containers and sandboxes."""

    def __init__(self, database: Database, objects: Objects, *, now: Callable[[], float] = time.time) -> None:
        """`now` returns Unix seconds."""
        self._db = database
        self._objects = objects
        self._now = now
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
        self._db.execute("UPDATE secrets SET last_used_at=? WHERE secret_id=?", (self._now(), secret_id))
        env: dict[str, str] = json.loads(row["env"])
        return env

    def drop_unused(self, *, running_apps: Callable[[], set[str]], needed: Callable[[], set[str]]) -> None:
        """Delete the secrets without a name that nothing can use any more.

        `running_apps` returns the ids of the apps that are not stopped, `needed` those of the secrets that their
        functions need, in any version that can be deployed again.
        """
        now = self._now()
        rows = self._db.all(
            "SELECT secret_id, app_id FROM secrets JOIN objects ON object_id=secret_id "
            "LEFT JOIN secret_owners USING (secret_id) WHERE name IS NULL "
            "AND max(created_at, last_used_at) < CASE WHEN app_id IS NULL THEN ? ELSE ? END",
            (now - UNOWNED_KEPT_S, now - OWNED_KEPT_S),
        )
        if not rows:
            return
        running = running_apps()
        candidates = {str(row["secret_id"]) for row in rows if row["app_id"] not in running}
        for secret_id in candidates - needed() if candidates else ():
            self._delete(secret_id)

    def _delete(self, secret_id: str) -> None:
        with self._db.transaction():
            self._objects.delete("secret", secret_id)
            self._db.execute("DELETE FROM secrets WHERE secret_id=?", (secret_id,))

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
        if created and request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP:
            self._db.execute("INSERT INTO secret_owners VALUES (?,?)", (secret_id, request.app_id))
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
        self._delete(request.secret_id)
        return empty_pb2.Empty()

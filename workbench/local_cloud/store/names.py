"""Maps (kind, environment, name) to an object's id, by the protocol's creation rules.

Volumes, secrets, dicts, queues and the like look their ids up here and keep everything else in tables of their own.
"""

import time

from modal_proto import api_pb2

from workbench.local_cloud.base.errors import already_exists, not_found
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.store.database import Database

DEFAULT_ENVIRONMENT = "main"

_DDL = """
CREATE TABLE IF NOT EXISTS objects (
  object_id TEXT PRIMARY KEY,
  kind TEXT NOT NULL,
  environment TEXT NOT NULL,
  name TEXT,
  created_at REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS objects_by_name ON objects (kind, environment, name) WHERE name IS NOT NULL;
"""


class Objects:
    """Named and anonymous objects of every kind."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.script(_DDL)

    def get_or_create(
        self, kind: str, prefix: str, *, environment: str, name: str, creation_type: int
    ) -> tuple[str, bool]:
        """Return (object id, whether it was created now). `creation_type` is the protocol's ObjectCreationType.

        `prefix` begins the id of a new object. Raises CloudError NOT_FOUND when the environment is missing or an object
        that must exist, ALREADY_EXISTS when there is an object that must not exist.
        """
        environment = environment or DEFAULT_ENVIRONMENT
        if kind != "environment":
            require_environment(self._db, environment)
        anonymous = creation_type in (
            api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
            api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
        )
        if not anonymous:
            row = self._db.one(
                "SELECT object_id FROM objects WHERE kind=? AND environment=? AND name=?", (kind, environment, name)
            )
            if row is not None:
                if creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
                    raise already_exists(f"{kind.capitalize()} '{name}' already exists in environment '{environment}'.")
                return str(row["object_id"]), False
            if creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise not_found(f"{kind.capitalize()} '{name}' not found in environment '{environment}'.")
        object_id = new_id(prefix)
        self._db.execute(
            "INSERT INTO objects VALUES (?,?,?,?,?)",
            (object_id, kind, environment, None if anonymous else name, time.time()),
        )
        return object_id, True

    def describe(self, kind: str, object_id: str) -> tuple[str, str, float]:
        """Return (environment, name or "", created_at in Unix seconds); raises CloudError NOT_FOUND."""
        row = self._db.one("SELECT * FROM objects WHERE kind=? AND object_id=?", (kind, object_id))
        if row is None:
            raise not_found(f"{kind.capitalize()} {object_id} not found.")
        return str(row["environment"]), str(row["name"] or ""), float(row["created_at"])

    def list(
        self, kind: str, *, environment: str, created_before: float = 0, limit: int = 0
    ) -> list[tuple[str, str, float]]:
        """Return named objects as (object id, name, created_at in Unix seconds), newest first.

        `created_before` is in Unix seconds; 0 for it or for `limit` means no bound.
        """
        rows = self._db.all(
            "SELECT * FROM objects WHERE kind=? AND environment=? AND name IS NOT NULL AND (?=0 OR created_at<?) "
            "ORDER BY created_at DESC LIMIT ?",
            (kind, environment or DEFAULT_ENVIRONMENT, created_before, created_before, limit or -1),
        )
        return [(str(row["object_id"]), str(row["name"]), float(row["created_at"])) for row in rows]

    def environment_id(self, name: str) -> str:
        """Return the id of an environment, that of the default one for an empty name; raises CloudError NOT_FOUND."""
        row = self._db.one(
            "SELECT object_id FROM objects WHERE kind='environment' AND name=?", (name or DEFAULT_ENVIRONMENT,)
        )
        if row is None:
            raise not_found(f"Environment '{name[:64]}' not found.")
        return str(row["object_id"])

    def rename_environment(self, environment_id: str, old: str, new: str) -> None:
        """Rename an environment and move its objects and apps along; raises CloudError ALREADY_EXISTS."""
        with self._db.transaction():
            self.rename("environment", environment_id, new)
            for table in ("objects", "apps"):
                self._db.execute(f"UPDATE {table} SET environment=? WHERE environment=?", (new, old))  # noqa: S608  # our own names

    def held_by(self, environment: str) -> tuple[str, ...]:
        """Return up to ten things that an environment holds, each in words: running apps, named objects and images."""
        rows = self._db.all(
            "SELECT 'app' AS kind, name FROM apps WHERE environment=? AND stopped_at=0 AND name IS NOT NULL "
            "UNION ALL SELECT kind, name FROM objects WHERE environment=? AND name IS NOT NULL "
            "UNION ALL SELECT DISTINCT 'named image', name FROM image_names WHERE environment_id=? LIMIT 10",
            (environment, environment, self.environment_id(environment)),
        )
        return tuple(f"the {row['kind']} '{row['name']}'" for row in rows)

    def rename(self, kind: str, object_id: str, name: str) -> None:
        """Rename an object; raises CloudError NOT_FOUND or ALREADY_EXISTS."""
        environment, _, _ = self.describe(kind, object_id)
        clash = self._db.one(
            "SELECT 1 FROM objects WHERE kind=? AND environment=? AND name=? AND object_id<>?",
            (kind, environment, name, object_id),
        )
        if clash is not None:
            raise already_exists(f"{kind.capitalize()} '{name}' already exists in environment '{environment}'.")
        self._db.execute("UPDATE objects SET name=? WHERE object_id=?", (name, object_id))

    def delete(self, kind: str, object_id: str) -> None:
        """Delete an object's id and name; raises CloudError NOT_FOUND."""
        if self._db.execute("DELETE FROM objects WHERE kind=? AND object_id=?", (kind, object_id)) == 0:
            raise not_found(f"{kind.capitalize()} {object_id} not found.")


def require_environment(database: Database, environment: str) -> None:
    """Raise CloudError NOT_FOUND when there is no environment of that name; the default one always exists."""
    known = "SELECT 1 FROM objects WHERE kind='environment' AND name=?"
    if environment != DEFAULT_ENVIRONMENT and database.one(known, (environment,)) is None:
        name = environment[:64]
        raise not_found(f"Environment '{name}' not found. To make it, run `modal environment create {name}`.")

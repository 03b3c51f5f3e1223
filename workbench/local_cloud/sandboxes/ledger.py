"""The table of sandboxes: what is still known of them after their end and after a restart of the cloud."""

import json
from dataclasses import dataclass

from modal_proto import api_pb2

from workbench.local_cloud.store.database import Database

_DDL = """
CREATE TABLE IF NOT EXISTS sandboxes (
  sandbox_id TEXT PRIMARY KEY, task_id TEXT NOT NULL, app_id TEXT NOT NULL, app_name TEXT NOT NULL,
  environment TEXT NOT NULL, name TEXT NOT NULL, definition BLOB NOT NULL, tags TEXT NOT NULL, created_at REAL NOT NULL,
  result BLOB, finished_at REAL NOT NULL DEFAULT 0
);
"""
_EXIT_TERMINATED = 137


@dataclass(eq=False)
class Known:
    """One sandbox as it is stored; times are Unix seconds, `result` is None while it runs."""

    sandbox_id: str
    task_id: str
    app_id: str
    app_name: str
    environment: str
    name: str
    definition: api_pb2.Sandbox
    tags: dict[str, str]
    created_at: float
    result: api_pb2.GenericResult | None = None
    finished_at: float = 0


class Ledger:
    """Stores sandboxes in SQLite, one row each."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.script(_DDL)

    def note(self, known: Known) -> None:
        """Store a sandbox, replacing its row."""
        self._db.execute(
            "INSERT OR REPLACE INTO sandboxes VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (
                known.sandbox_id,
                known.task_id,
                known.app_id,
                known.app_name,
                known.environment,
                known.name,
                known.definition.SerializeToString(),
                json.dumps(known.tags),
                known.created_at,
                known.result.SerializeToString() if known.result is not None else None,
                known.finished_at,
            ),
        )

    def forget(self, sandbox_id: str) -> None:
        """Delete a sandbox's row."""
        self._db.execute("DELETE FROM sandboxes WHERE sandbox_id=?", (sandbox_id,))

    def end_all(self, *, now: float) -> list[Known]:
        """Return every sandbox, oldest first. Those without a result get one: they ended with the previous cloud.

        `now`, in Unix seconds, becomes their end.
        """
        terminated = api_pb2.GenericResult(
            status=api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, exitcode=_EXIT_TERMINATED
        )
        self._db.execute(
            "UPDATE sandboxes SET result=?, finished_at=? WHERE result IS NULL", (terminated.SerializeToString(), now)
        )
        return [
            Known(
                sandbox_id=row["sandbox_id"],
                task_id=row["task_id"],
                app_id=row["app_id"],
                app_name=row["app_name"],
                environment=row["environment"],
                name=row["name"],
                definition=api_pb2.Sandbox.FromString(row["definition"]),
                tags=json.loads(row["tags"]),
                created_at=row["created_at"],
                result=api_pb2.GenericResult.FromString(row["result"]),
                finished_at=row["finished_at"],
            )
            for row in self._db.all("SELECT * FROM sandboxes ORDER BY created_at")
        ]

"""Records which objects are ephemeral and when their owner last sent a heartbeat, so that abandoned ones can go."""

import time
from collections.abc import Callable

from workbench.local_cloud.store.database import Database

SILENCE_S = 15 * 60  # three heartbeats of the SDK, which sends one every 300 s

_DDL = """
CREATE TABLE IF NOT EXISTS ephemeral_objects (
  object_id TEXT PRIMARY KEY REFERENCES objects ON DELETE CASCADE, seen_at REAL NOT NULL
);
"""


class Ephemeral:
    """Records the heartbeats of ephemeral objects' owners. `now` returns Unix seconds."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self._db = database
        self._now = now
        database.script(_DDL)

    def add(self, object_id: str) -> None:
        """Make an object ephemeral: it lives as long as its owner sends heartbeats."""
        self._db.execute("INSERT INTO ephemeral_objects VALUES (?,?)", (object_id, self._now()))

    def touch(self, object_id: str) -> None:
        """Record a heartbeat of the object's owner; does nothing for an object that is not ephemeral."""
        self._db.execute("UPDATE ephemeral_objects SET seen_at=? WHERE object_id=?", (self._now(), object_id))

    def abandoned(self, kind: str) -> list[str]:
        """Return the ids of a kind's ephemeral objects whose owner sent no heartbeat for `SILENCE_S` seconds."""
        rows = self._db.all(
            "SELECT object_id FROM ephemeral_objects JOIN objects USING (object_id) WHERE kind=? AND seen_at<?",
            (kind, self._now() - SILENCE_S),
        )
        return [str(row["object_id"]) for row in rows]

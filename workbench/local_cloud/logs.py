"""Keeps what apps' containers print, so that `modal app logs` can show it: the newest lines of each app, in SQLite."""

import asyncio
import time
from collections import defaultdict

from workbench.local_cloud.store.database import Database

KEPT_ROWS_PER_APP = 20_000  # older rows go first; a container that prints for ever costs a bounded file
MAX_ROW_BYTES = 16 * 1024

LogRow = tuple[int, float, int, str, str, str]  # entry, Unix time, fd, task id, function id, text

_DDL = """
CREATE TABLE IF NOT EXISTS logs (
  entry INTEGER PRIMARY KEY AUTOINCREMENT, app_id TEXT NOT NULL, at REAL NOT NULL, fd INTEGER NOT NULL,
  task_id TEXT NOT NULL, function_id TEXT NOT NULL, data TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS logs_by_app ON logs (app_id, entry);
"""


class AppLogs:
    """Appends and reads log rows, and wakes those who follow."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.script(_DDL)
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._appended: defaultdict[str, int] = defaultdict(int)

    def append(self, app_id: str, data: str, *, fd: int, task_id: str = "", function_id: str = "") -> None:
        """Add one piece of output; `fd` is the protocol's FileDescriptor."""
        self.append_all(app_id, [data], fd=fd, task_id=task_id, function_id=function_id)

    def append_all(self, app_id: str, pieces: list[str], *, fd: int, task_id: str = "", function_id: str = "") -> None:
        """Add pieces of output in order, in one transaction."""
        now = time.time()
        with self._db.transaction():
            self._db.executemany(
                "INSERT INTO logs (app_id, at, fd, task_id, function_id, data) VALUES (?,?,?,?,?,?)",
                [(app_id, now, fd, task_id, function_id, data[:MAX_ROW_BYTES]) for data in pieces],
            )
        before = self._appended[app_id]
        self._appended[app_id] += len(pieces)
        if before // 1000 != self._appended[app_id] // 1000:
            self._db.execute(
                "DELETE FROM logs WHERE app_id=? AND entry <= (SELECT MAX(entry) FROM logs WHERE app_id=?) - ?",
                (app_id, app_id, KEPT_ROWS_PER_APP),
            )
        self.wake(app_id)

    def wake(self, app_id: str) -> None:
        """Make those who follow an app look again: it printed something, or it has ended."""
        event = self._news.pop(app_id, None)
        if event is not None:
            event.set()

    def rows(
        self,
        app_id: str,
        *,
        after: int = 0,
        since: float = 0,
        until: float = 0,
        newest: int = 0,
        search: str = "",
        task_id: str = "",
        function_id: str = "",
        fd: int = 0,
    ) -> list[LogRow]:
        """Rows in order; `newest` keeps only the last so many.

        An empty or zero filter lets everything through.
        """
        where, parameters = _where(app_id, since, until, search, task_id, function_id, fd)
        found = self._db.all(
            f"SELECT * FROM logs WHERE {where} AND entry>? ORDER BY entry DESC LIMIT ?",  # noqa: S608  # constant text
            (*parameters, after, newest or 5000),
        )
        return [
            (row["entry"], row["at"], row["fd"], row["task_id"], row["function_id"], row["data"])
            for row in reversed(found)
        ]

    def counts(
        self,
        app_id: str,
        *,
        since: float,
        until: float,
        width_s: int,
        search: str = "",
        task_id: str = "",
        function_id: str = "",
        fd: int = 0,
    ) -> list[tuple[int, int, int]]:
        """How many rows there are, as (bucket of `width_s` seconds, fd, rows)."""
        where, parameters = _where(app_id, since, until, search, task_id, function_id, fd)
        rows = self._db.all(
            "SELECT CAST((at-?)/? AS INTEGER) AS bucket, fd, COUNT(*) AS rows FROM logs "  # noqa: S608  # constant text
            f"WHERE {where} GROUP BY bucket, fd ORDER BY bucket",
            (since, width_s, *parameters),
        )
        return [(row["bucket"], row["fd"], row["rows"]) for row in rows]

    def task(self, task_id: str) -> tuple[str, float, float] | None:
        """The app of a task that printed something, and the Unix times of its first and last row."""
        row = self._db.one(
            "SELECT app_id, MIN(at) AS first, MAX(at) AS last FROM logs WHERE task_id=? GROUP BY app_id", (task_id,)
        )
        return None if row is None or not task_id else (row["app_id"], row["first"], row["last"])

    async def wait(self, app_id: str, *, timeout_s: float) -> None:
        """Return when the app printed something, or after `timeout_s` seconds."""
        try:
            await asyncio.wait_for(self._news[app_id].wait(), timeout_s)
        except TimeoutError:
            pass


def _where(
    app_id: str, since: float, until: float, search: str, task_id: str, function_id: str, fd: int
) -> tuple[str, tuple[object, ...]]:
    condition = (
        "app_id=? AND at>=? AND (?=0 OR at<=?) AND instr(data, ?)>0 AND ? IN ('', task_id) "
        "AND ? IN ('', function_id) AND ? IN (0, fd)"
    )
    return condition, (app_id, since, until, until, search, task_id, function_id, fd)

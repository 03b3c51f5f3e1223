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
        self._db.execute(
            "INSERT INTO logs (app_id, at, fd, task_id, function_id, data) VALUES (?,?,?,?,?,?)",
            (app_id, time.time(), fd, task_id, function_id, data[:MAX_ROW_BYTES]),
        )
        self._appended[app_id] += 1
        if self._appended[app_id] % 1000 == 0:
            self._db.execute(
                "DELETE FROM logs WHERE app_id=? AND entry <= (SELECT MAX(entry) FROM logs WHERE app_id=?) - ?",
                (app_id, app_id, KEPT_ROWS_PER_APP),
            )
        event = self._news.pop(app_id, None)
        if event is not None:
            event.set()

    def rows(
        self, app_id: str, *, after: int = 0, since: float = 0, until: float = 0, newest: int = 0, search: str = ""
    ) -> list[LogRow]:
        """Rows in order; `newest` keeps only the last so many."""
        found = self._db.all(
            "SELECT * FROM logs WHERE app_id=? AND entry>? AND at>=? AND (?=0 OR at<=?) AND instr(data, ?)>0 "
            "ORDER BY entry DESC LIMIT ?",
            (app_id, after, since, until, until, search, newest or 5000),
        )
        return [
            (row["entry"], row["at"], row["fd"], row["task_id"], row["function_id"], row["data"])
            for row in reversed(found)
        ]

    async def wait(self, app_id: str, *, timeout_s: float) -> None:
        """Return when the app printed something, or after `timeout_s` seconds."""
        try:
            await asyncio.wait_for(self._news[app_id].wait(), timeout_s)
        except TimeoutError:
            pass

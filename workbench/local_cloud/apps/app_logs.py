"""Keeps what apps' containers print, so that `modal app logs` can show it: the newest part of each app's, in SQLite.

A reader follows by entries, oldest first, and gets every row at its own pace. Where rows had to go because an app has
printed more than is kept, one row stands in their place that says how many lines are missing.
"""

import asyncio
import sqlite3
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from modal_proto import api_pb2

from workbench.local_cloud.base.log_lines import MAX_ROW_CHARS, cut
from workbench.local_cloud.store.database import Database

KEPT_BYTES_PER_APP = 32 * 1024 * 1024  # older rows go first; a container that prints for ever costs a bounded file
PAGE_ROWS = 1000
MOST_ROWS = 20_000  # of one answer; what the SDK asks for at most
_ROW_BYTES = 64  # what a row costs beside its text
_PRUNED_AT_ONCE = 1024 * 1024

_DDL = """
CREATE TABLE IF NOT EXISTS logs (
  entry INTEGER PRIMARY KEY AUTOINCREMENT, app_id TEXT NOT NULL, at REAL NOT NULL, fd INTEGER NOT NULL,
  task_id TEXT NOT NULL, function_id TEXT NOT NULL, call_id TEXT NOT NULL, input_id TEXT NOT NULL, data TEXT NOT NULL,
  missing INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS logs_by_app ON logs (app_id, entry);
"""


class Origin(NamedTuple):
    """Who printed: a container, for a function, for a call and an input of it; empty is unknown or nobody."""

    task_id: str = ""
    function_id: str = ""
    call_id: str = ""
    input_id: str = ""


class LogRow(NamedTuple):
    """One row: its number, which rises, its Unix time, the protocol's FileDescriptor, its origin and its text."""

    entry: int
    at: float
    fd: int
    origin: Origin
    text: str


@dataclass(frozen=True)
class Wanted:
    """Which rows a reader wants; an empty or zero filter lets everything through.

    Times are Unix seconds, `since` included and `until` not, so that no row is in two neighbouring intervals.
    """

    since: float = 0
    until: float = 0
    search: str = ""
    task_id: str = ""
    function_ids: Sequence[str] = ()
    call_id: str = ""
    input_id: str = ""
    fd: int = 0

    def condition(self, app_id: str) -> tuple[str, tuple[object, ...]]:
        """Say it in SQL; the row that says what is missing passes every filter but that of a text."""
        functions = ",".join("?" * len(self.function_ids)) or "function_id"
        condition = (
            "app_id=? AND at>=? AND (?=0 OR at<?) AND instr(data, ?)>0 AND (missing>0 OR (? IN ('', task_id) "
            f"AND function_id IN ({functions}) AND ? IN ('', call_id) AND ? IN ('', input_id) AND ? IN (0, fd)))"
        )
        filters = (self.task_id, *self.function_ids, self.call_id, self.input_id, self.fd)
        return condition, (app_id, self.since, self.until, self.until, self.search, *filters)


class AppLogs:
    """Appends and reads log rows, and wakes those who follow."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.script(_DDL)
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._sizes: dict[str, int] = {}

    def append(self, app_id: str, texts: Sequence[str], *, fd: int, origin: Origin) -> None:
        """Add output in order, in one transaction; a text that is too long for a row becomes several.

        Raises sqlite3.Error, and then nothing was added.
        """
        now = time.time()
        rows = [row for text in texts for row in (cut(text) if len(text) > MAX_ROW_CHARS else [text])]
        size = self._size(app_id) + sum(map(_cost, rows))
        with self._db.transaction():
            self._db.executemany(
                "INSERT INTO logs (app_id, at, fd, task_id, function_id, call_id, input_id, data) "
                "VALUES (?,?,?,?,?,?,?,?)",
                [(app_id, now, fd, *origin, row) for row in rows],
            )
            if size > KEPT_BYTES_PER_APP:
                size -= self._prune(app_id, size)
        self._sizes[app_id] = size
        self.wake(app_id)

    def _size(self, app_id: str) -> int:
        if app_id not in self._sizes:
            sizes = self._db.one(
                "SELECT COALESCE(SUM(LENGTH(CAST(data AS BLOB))+?), 0) AS size FROM logs WHERE app_id=?",
                (_ROW_BYTES, app_id),
            )
            self._sizes[app_id] = int(sizes["size"]) if sizes is not None else 0
        return self._sizes[app_id]

    def _prune(self, app_id: str, size: int) -> int:
        """Take away the oldest rows, and put one in the place of the last of them; returns what they cost."""
        wanted, freed, lines, last = size - KEPT_BYTES_PER_APP + _PRUNED_AT_ONCE, 0, 0, 0
        while freed < wanted:
            rows = self._db.all(
                "SELECT entry, data, missing FROM logs WHERE app_id=? AND entry>? ORDER BY entry LIMIT ?",
                (app_id, last, PAGE_ROWS),
            )
            for row in rows:
                last, freed = row["entry"], freed + _cost(row["data"])
                lines += row["missing"] or row["data"].count("\n")
                if freed >= wanted:
                    break
            if not rows:
                break
        note = f"[local cloud: {lines} earlier lines are no longer kept]\n"
        self._db.execute("DELETE FROM logs WHERE app_id=? AND entry<?", (app_id, last))
        self._db.execute(
            "UPDATE logs SET data=?, missing=?, fd=?, task_id='', function_id='', call_id='', input_id='' "
            "WHERE entry=?",
            (note, max(lines, 1), api_pb2.FILE_DESCRIPTOR_INFO, last),
        )
        return freed - _cost(note)

    def wake(self, app_id: str) -> None:
        """Make those who follow an app look again: it printed something, or it has ended."""
        event = self._news.pop(app_id, None)
        if event is not None:
            event.set()

    def after(self, app_id: str, entry: int, wanted: Wanted) -> list[LogRow]:
        """The next rows after an entry, oldest first; a full page has PAGE_ROWS rows, an empty one is the end."""
        where, parameters = wanted.condition(app_id)
        found = self._db.all(
            f"SELECT * FROM logs WHERE {where} AND entry>? ORDER BY entry LIMIT ?",  # noqa: S608  # constant text
            (*parameters, entry, PAGE_ROWS),
        )
        return [_row(row) for row in found]

    def last_entry(self, app_id: str) -> int:
        """The newest row of an app, 0 without any: who has looked through all rows up to it goes on after it."""
        row = self._db.one("SELECT MAX(entry) AS last FROM logs WHERE app_id=?", (app_id,))
        return int(row["last"] or 0) if row is not None else 0

    def newest(self, app_id: str, limit: int, wanted: Wanted) -> list[LogRow]:
        """The last `limit` rows, in their order."""
        where, parameters = wanted.condition(app_id)
        found = self._db.all(
            f"SELECT * FROM logs WHERE {where} ORDER BY entry DESC LIMIT ?",  # noqa: S608  # constant text
            (*parameters, min(limit or MOST_ROWS, MOST_ROWS)),
        )
        return [_row(row) for row in reversed(found)]

    def counts(self, app_id: str, *, width_s: int, wanted: Wanted) -> list[tuple[int, int, int]]:
        """How many rows there are, as (beginning of a bucket, a multiple of its width in Unix time; fd; rows)."""
        where, parameters = wanted.condition(app_id)
        rows = self._db.all(
            "SELECT CAST(at AS INTEGER)/?*? AS bucket, fd, COUNT(*) AS rows FROM logs "  # noqa: S608  # constant text
            f"WHERE {where} GROUP BY bucket, fd ORDER BY bucket",
            (width_s, width_s, *parameters),
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


def _row(row: sqlite3.Row) -> LogRow:
    origin = Origin(row["task_id"], row["function_id"], row["call_id"], row["input_id"])
    return LogRow(row["entry"], row["at"], row["fd"], origin, row["data"])


def _cost(text: str) -> int:
    return len(text.encode()) + _ROW_BYTES

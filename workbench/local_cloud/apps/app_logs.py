"""Keeps the newest output of each app's containers in SQLite, for `modal app logs`.

A reader follows a log by row numbers, oldest first and at its own pace, and gets every row. When an app has printed
more than is kept, its oldest rows are replaced by one that says how many lines are missing.
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

KEPT_BYTES_PER_APP = 32 * 1024 * 1024  # older rows are removed first, so that endless output takes bounded space
PAGE_ROWS = 1000
MOST_ROWS = 20_000  # in one answer; the most that the SDK asks for
_ROW_BYTES = 64  # what a row takes besides its text
_PRUNED_AT_ONCE = 1024 * 1024  # bytes below the limit that are freed, too, so that not each row prunes

_DDL = """
CREATE TABLE IF NOT EXISTS logs (
  entry INTEGER PRIMARY KEY AUTOINCREMENT, app_id TEXT NOT NULL, at REAL NOT NULL, fd INTEGER NOT NULL,
  task_id TEXT NOT NULL, function_id TEXT NOT NULL, call_id TEXT NOT NULL, input_id TEXT NOT NULL, data TEXT NOT NULL,
  missing INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS logs_by_app ON logs (app_id, entry);
"""


class Origin(NamedTuple):
    """Where a row comes from: the container, and the function, call and input that it worked on; empty if unknown."""

    task_id: str = ""
    function_id: str = ""
    call_id: str = ""
    input_id: str = ""


class LogRow(NamedTuple):
    """One row: its number, its Unix time, the protocol's FileDescriptor, its origin and its text.

    Numbers rise with every row that is added.
    """

    entry: int
    at: float
    fd: int
    origin: Origin
    text: str


@dataclass(frozen=True)
class Wanted:
    """The filters of a reader; one that is empty or zero lets every row pass.

    Times are Unix seconds, `since` included and `until` excluded, so that no row is in two adjacent intervals.
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
        """Return the filters as an SQL condition and its parameters.

        The row about missing lines passes all filters except those of time and text.
        """
        functions = ",".join("?" * len(self.function_ids)) or "function_id"
        condition = (
            "app_id=? AND at>=? AND (?=0 OR at<?) AND instr(data, ?)>0 AND (missing>0 OR (? IN ('', task_id) "
            f"AND function_id IN ({functions}) AND ? IN ('', call_id) AND ? IN ('', input_id) AND ? IN (0, fd)))"
        )
        filters = (self.task_id, *self.function_ids, self.call_id, self.input_id, self.fd)
        return condition, (app_id, self.since, self.until, self.until, self.search, *filters)


class AppLogs:
    """Appends and reads log rows, and wakes the readers that follow an app's log."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.script(_DDL)
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._sizes: dict[str, int] = {}

    def append(self, app_id: str, texts: Sequence[str], *, fd: int, origin: Origin) -> None:
        """Add texts in order, in one transaction; a text that is too long for a row becomes several rows.

        `fd` is the protocol's FileDescriptor. When it raises sqlite3.Error, nothing was added.
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
        """Remove the oldest rows, replace the last of them by a note about it, and return how many bytes that freed."""
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
        """Wake the readers that wait for an app, because it has printed something or has ended."""
        event = self._news.pop(app_id, None)
        if event is not None:
            event.set()

    def after(self, app_id: str, entry: int, wanted: Wanted) -> list[LogRow]:
        """Return at most PAGE_ROWS rows after the row `entry`, oldest first; an empty list is the end of the log."""
        where, parameters = wanted.condition(app_id)
        found = self._db.all(
            f"SELECT * FROM logs WHERE {where} AND entry>? ORDER BY entry LIMIT ?",  # noqa: S608  # constant text
            (*parameters, entry, PAGE_ROWS),
        )
        return [_row(row) for row in found]

    def last_entry(self, app_id: str) -> int:
        """Return the number of an app's newest row, 0 without any. A reader that has seen all rows goes on after it."""
        row = self._db.one("SELECT MAX(entry) AS last FROM logs WHERE app_id=?", (app_id,))
        return int(row["last"] or 0) if row is not None else 0

    def newest(self, app_id: str, limit: int, wanted: Wanted) -> list[LogRow]:
        """Return the last `limit` rows (0, or too many: MOST_ROWS), oldest first."""
        where, parameters = wanted.condition(app_id)
        found = self._db.all(
            f"SELECT * FROM logs WHERE {where} ORDER BY entry DESC LIMIT ?",  # noqa: S608  # constant text
            (*parameters, min(limit or MOST_ROWS, MOST_ROWS)),
        )
        return [_row(row) for row in reversed(found)]

    def counts(self, app_id: str, *, width_s: int, wanted: Wanted) -> list[tuple[int, int, int]]:
        """Count rows in buckets of `width_s` seconds; returns (bucket's beginning in Unix seconds, fd, rows).

        Beginnings are multiples of `width_s`.
        """
        where, parameters = wanted.condition(app_id)
        rows = self._db.all(
            "SELECT CAST(at AS INTEGER)/?*? AS bucket, fd, COUNT(*) AS rows FROM logs "  # noqa: S608  # constant text
            f"WHERE {where} GROUP BY bucket, fd ORDER BY bucket",
            (width_s, width_s, *parameters),
        )
        return [(row["bucket"], row["fd"], row["rows"]) for row in rows]

    def task(self, task_id: str) -> tuple[str, float, float] | None:
        """Return a task's app id and the Unix times of its first and last row; None when it has no rows."""
        row = self._db.one(
            "SELECT app_id, MIN(at) AS first, MAX(at) AS last FROM logs WHERE task_id=? GROUP BY app_id", (task_id,)
        )
        return None if row is None or not task_id else (row["app_id"], row["first"], row["last"])

    async def wait(self, app_id: str, *, timeout_s: float) -> None:
        """Return when the app has printed something or has ended, or after `timeout_s` seconds."""
        try:
            await asyncio.wait_for(self._news[app_id].wait(), timeout_s)
        except TimeoutError:
            pass


def _row(row: sqlite3.Row) -> LogRow:
    origin = Origin(row["task_id"], row["function_id"], row["call_id"], row["input_id"])
    return LogRow(row["entry"], row["at"], row["fd"], origin, row["data"])


def _cost(text: str) -> int:
    return len(text.encode()) + _ROW_BYTES

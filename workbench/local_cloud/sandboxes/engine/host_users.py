"""The host's user ids as which sandboxes run when the cloud is root: one for each project, from an unused range.

A project keeps its user id. When all ids of the range are in use, a new project gets that of the project which has run
nothing for the longest time. Two projects that run never have the same id.

Two clouds on one machine use the same ids, unless each is given a range of its own (WORKBENCH_SANDBOX_UIDS). Processes
are counted for each sandbox alone, see `launcher.enter`; inotify instances, which the kernel counts per user, are not.
"""

import os
import re
import time

from workbench.errors import WorkbenchError
from workbench.local_cloud.base.errors import exhausted
from workbench.local_cloud.store.database import Database

UIDS_VARIABLE = "WORKBENCH_SANDBOX_UIDS"  # FIRST-LAST, both included
_DEFAULT = (210_000, 259_999)
LOWEST_UID = 1_000  # lower ids are the system's own users


class UidRangeError(WorkbenchError, ValueError):
    """WORKBENCH_SANDBOX_UIDS is not a range of user ids; the message says what it must look like."""


def uid_range() -> tuple[int, int]:
    """Return the first and the last user id for sandboxes. Raises UidRangeError."""
    given = os.environ.get(UIDS_VARIABLE)
    if not given:
        return _DEFAULT
    found = re.fullmatch(r"(\d{1,10})-(\d{1,10})", given, re.ASCII)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not LOWEST_UID <= first <= last < 2**32 - 1:
        raise UidRangeError(
            f"{UIDS_VARIABLE} is {given[:100]!r}: it must be two user ids from {LOWEST_UID} on, the lower one first, "
            f"such as {_DEFAULT[0]}-{_DEFAULT[1]}"
        )
    return first, last


def isolation_uid(index: int) -> int:
    """Return the user id at a position of the range, which begins again at its end. Raises UidRangeError."""
    first, last = uid_range()
    return first + index % (last - first + 1)


_DDL = """
CREATE TABLE IF NOT EXISTS sandbox_users (
  project TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, used_at REAL NOT NULL
);
"""
_FIRST_FREE = """
SELECT MIN(number)+1 AS number FROM (SELECT -1 AS number UNION ALL SELECT number FROM sandbox_users) AS one
WHERE NOT EXISTS (SELECT 1 FROM sandbox_users AS next WHERE next.number=one.number+1)
"""


class Users:
    """Assigns user ids to projects."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._holders: dict[str, tuple[str, int]] = {}  # by sandbox id: its project, and its position in the range
        database.script(_DDL)
        database.execute("DELETE FROM sandbox_users WHERE project LIKE 'sandbox %'")  # of a cloud that was killed

    def take(self, sandbox_id: str, project: str | None) -> int:
        """Return the user id for a sandbox: its project's, or for None one of its own, until `release`.

        Raises CloudError RESOURCE_EXHAUSTED when all ids belong to projects that run.
        """
        key = project if project is not None else f"sandbox {sandbox_id}"
        with self._db.transaction():
            number = self._number(key)
            self._db.execute("INSERT OR REPLACE INTO sandbox_users VALUES (?,?,?)", (key, number, time.time()))
        self._holders[sandbox_id] = (key, number)
        return isolation_uid(number)

    def release(self, sandbox_id: str) -> None:
        """Record that no process of a sandbox runs any more. Idempotent."""
        key, _ = self._holders.pop(sandbox_id, ("", 0))
        if key == f"sandbox {sandbox_id}":
            self._db.execute("DELETE FROM sandbox_users WHERE project=?", (key,))

    def _number(self, key: str) -> int:
        first, last = uid_range()
        size = last - first + 1
        known = self._db.one("SELECT number FROM sandbox_users WHERE project=? AND number<?", (key, size))
        if known is not None:
            return int(known["number"])
        free = self._db.one(_FIRST_FREE)
        if free is not None and free["number"] < size:
            return int(free["number"])
        running = {number for _, number in self._holders.values()}
        for row in self._db.all("SELECT project, number FROM sandbox_users WHERE number<? ORDER BY used_at", (size,)):
            if row["number"] not in running:
                self._db.execute("DELETE FROM sandbox_users WHERE project=?", (row["project"],))
                return int(row["number"])
        raise exhausted(
            f"Sandboxes of {size} projects run, and there is no user id for another project: end some sandboxes, or "
            f"give the cloud a longer range of ids ({UIDS_VARIABLE})."
        )

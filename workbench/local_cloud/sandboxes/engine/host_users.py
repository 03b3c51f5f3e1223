"""The host's users that sandboxes run as when the cloud is root: one for each project, none of them anybody's.

A project keeps its user for as long as the range lasts. When every user has been given out, the one whose project has
run nothing for the longest time changes hands; no two projects that run have the same.

Two clouds on one machine share them unless each is given a range of its own: limits by user would then be counted
together.
"""

import os
import re
import time

from workbench.errors import WorkbenchError
from workbench.local_cloud.base.errors import exhausted
from workbench.local_cloud.store.database import Database

UIDS_VARIABLE = "WORKBENCH_SANDBOX_UIDS"  # FIRST-LAST, both included
_DEFAULT = (210_000, 259_999)
LOWEST_UID = 1_000  # below are the system's own users


class UidRangeError(WorkbenchError, ValueError):
    """WORKBENCH_SANDBOX_UIDS is no range of user ids; the message says what one looks like."""


def uid_range() -> tuple[int, int]:
    """The first and the last user id for sandboxes. Raises UidRangeError."""
    given = os.environ.get(UIDS_VARIABLE)
    if not given:
        return _DEFAULT
    found = re.fullmatch(r"(\d{1,10})-(\d{1,10})", given, re.ASCII)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not LOWEST_UID <= first <= last < 2**32 - 1:
        raise UidRangeError(
            f"{UIDS_VARIABLE} is {given!r}: it takes two user ids from {LOWEST_UID} on, such as "
            f"{_DEFAULT[0]}-{_DEFAULT[1]}"
        )
    return first, last


def isolation_uid(index: int) -> int:
    """The unprivileged host user for the project with this index, when the cloud is root. Raises UidRangeError."""
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
    """Gives projects their users."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._holders: dict[str, tuple[str, int]] = {}  # by sandbox: its project and the number of its user
        database.script(_DDL)
        database.execute("DELETE FROM sandbox_users WHERE project LIKE 'sandbox %'")  # of a cloud that was killed

    def take(self, sandbox_id: str, project: str | None) -> int:
        """The user for a sandbox: its project's, or one for itself alone. Raises CloudError RESOURCE_EXHAUSTED."""
        key = project if project is not None else f"sandbox {sandbox_id}"
        with self._db.transaction():
            number = self._number(key)
            self._db.execute("INSERT OR REPLACE INTO sandbox_users VALUES (?,?,?)", (key, number, time.time()))
        self._holders[sandbox_id] = (key, number)
        return isolation_uid(number)

    def release(self, sandbox_id: str) -> None:
        """A sandbox has ended, and nothing of it runs. Idempotent."""
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
            f"Sandboxes of {size} projects run, and there is no user for another one: end some, or give the cloud a "
            f"longer range ({UIDS_VARIABLE})."
        )

"""The entries of dicts in SQLite: keys and values as bytes, which expire when they are not used for seven days.

The limits are Modal's: expiry and `MAX_LENGTH` from the docstrings of `modal.Dict` (SDK 1.6.4), the size of a value and
the entries of an update from modal.com/docs/guide/dicts-and-queues.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from workbench.local_cloud.base.errors import invalid, too_large
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.names import Objects

LIFETIME_S = 7 * 24 * 3600  # without a read or a write
MAX_VALUE_BYTES = 100 * 1024 * 1024
MAX_ENTRIES_PER_UPDATE = 10_000
MAX_LENGTH = 100_000  # `Dict.len` returns at most this
MAX_KEY_BYTES = 1024 * 1024  # a limit of this cloud, because keys are indexed; Modal documents none
READ_NOTED_EVERY_S = 60  # a read writes to the disk at most this often, so an entry may live this much longer
_SWEPT_AT_ONCE = 1000  # entries; a sweep must not hold up the event loop

# Values have a table of their own, so that counting, listing keys and recording a read do not read or write them.
_DDL = """
CREATE TABLE IF NOT EXISTS dict_entries (
  entry INTEGER PRIMARY KEY, dict_id TEXT NOT NULL REFERENCES objects ON DELETE CASCADE, key BLOB NOT NULL,
  used_at REAL NOT NULL, UNIQUE (dict_id, key)
);
CREATE INDEX IF NOT EXISTS dict_entries_by_use ON dict_entries (used_at);
CREATE TABLE IF NOT EXISTS dict_values (
  entry INTEGER PRIMARY KEY REFERENCES dict_entries ON DELETE CASCADE, value BLOB NOT NULL
);
"""


class Dicts:
    """Reads and writes entries. `now` returns Unix seconds.

    Every method raises CloudError: NOT_FOUND for a dict that does not exist, INVALID_ARGUMENT for a key that is too
    long.
    """

    def __init__(self, database: Database, objects: Objects, *, now: Callable[[], float] = time.time) -> None:
        self._db = database
        self._objects = objects
        self._now = now
        database.script(_DDL)

    def get(self, dict_id: str, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        entry = self._find(dict_id, key)
        return None if entry is None else self._value(entry)

    def contains(self, dict_id: str, key: bytes) -> bool:
        """Whether a key exists; this counts as a read of its entry."""
        return self._find(dict_id, key) is not None

    def pop(self, dict_id: str, key: bytes) -> bytes | None:
        """Remove a key and return its value, or None. If several callers pop it at once, one of them gets it."""
        with self._db.transaction():
            entry = self._find(dict_id, key)
            if entry is None:
                return None
            value = self._value(entry)
            self._db.execute("DELETE FROM dict_entries WHERE entry=?", (entry,))
        return value

    def length(self, dict_id: str) -> int:
        """Return the number of entries, or `MAX_LENGTH` if there are more."""
        self._check(dict_id)
        row = self._db.one(
            "SELECT COUNT(*) AS length FROM (SELECT 1 FROM dict_entries WHERE dict_id=? AND used_at>=? LIMIT ?)",
            (dict_id, self._oldest(), MAX_LENGTH),
        )
        return 0 if row is None else int(row["length"])

    def update(self, dict_id: str, entries: Sequence[tuple[bytes, bytes]], *, if_not_exists: bool = False) -> bool:
        """Set all keys or none, and return whether any was set; `if_not_exists` leaves keys that exist unchanged.

        Raises CloudError INVALID_ARGUMENT for too many entries, and for a key or value that is too large.
        """
        if len(entries) > MAX_ENTRIES_PER_UPDATE:
            raise invalid(
                f"An update of a dict holds at most {MAX_ENTRIES_PER_UPDATE:,} entries, not {len(entries):,}: split it."
            )
        for key, value in entries:
            _check_key(key)
            if len(value) > MAX_VALUE_BYTES:
                raise too_large("A value of a dict", len(value), MAX_VALUE_BYTES)
        changed = False
        with self._db.transaction():
            self._check(dict_id)
            for key, value in entries:
                entry = self._find(dict_id, key)
                if entry is None or not if_not_exists:
                    self._set(dict_id, key, value)
                    changed = True
        return changed

    def clear(self, dict_id: str) -> None:
        """Remove every entry."""
        self._check(dict_id)
        self._db.execute("DELETE FROM dict_entries WHERE dict_id=?", (dict_id,))

    def contents(self, dict_id: str, *, values: bool) -> Iterator[tuple[bytes, bytes]]:
        """Yield every entry as (key, value), without `values` with an empty value; counts as a read of all.

        Only one entry is in memory at a time. Entries that are written meanwhile may be among them or not.
        """
        self._check(dict_id)
        now = self._now()
        self._db.execute(
            "UPDATE dict_entries SET used_at=? WHERE dict_id=? AND used_at BETWEEN ? AND ?",
            (now, dict_id, self._oldest(), now - READ_NOTED_EVERY_S),
        )
        last, beyond = b"", ">="  # the empty key sorts first
        while True:
            row = self._db.one(
                f"SELECT entry, key FROM dict_entries WHERE dict_id=? AND key{beyond}? AND used_at>=? "  # noqa: S608  # ours
                "ORDER BY key LIMIT 1",
                (dict_id, last, self._oldest()),
            )
            if row is None:
                return
            last, beyond = bytes(row["key"]), ">"
            yield last, self._value(int(row["entry"])) if values else b""

    def drop_expired(self) -> int:
        """Remove up to 1,000 expired entries and return how many; 0 means that none is left."""
        return self._db.execute(
            "DELETE FROM dict_entries WHERE entry IN (SELECT entry FROM dict_entries WHERE used_at<? LIMIT ?)",
            (self._oldest(), _SWEPT_AT_ONCE),
        )

    def _check(self, dict_id: str) -> None:
        self._objects.describe("dict", dict_id)

    def _oldest(self) -> float:
        return self._now() - LIFETIME_S - READ_NOTED_EVERY_S

    def _find(self, dict_id: str, key: bytes) -> int | None:
        """Return the number of a key's entry and record its use; None when it is missing or expired."""
        self._check(dict_id)
        _check_key(key)
        row = self._db.one(
            "SELECT entry, used_at FROM dict_entries WHERE dict_id=? AND key=? AND used_at>=?",
            (dict_id, key, self._oldest()),
        )
        if row is None:
            return None
        now = self._now()
        if row["used_at"] <= now - READ_NOTED_EVERY_S:
            self._db.execute("UPDATE dict_entries SET used_at=? WHERE entry=?", (now, row["entry"]))
        return int(row["entry"])

    def _value(self, entry: int) -> bytes:
        row = self._db.one("SELECT value FROM dict_values WHERE entry=?", (entry,))
        assert row is not None, "an entry has a value"
        return bytes(row["value"])

    def _set(self, dict_id: str, key: bytes, value: bytes) -> None:
        row = self._db.one(
            "INSERT INTO dict_entries (dict_id, key, used_at) VALUES (?,?,?) "
            "ON CONFLICT (dict_id, key) DO UPDATE SET used_at=excluded.used_at RETURNING entry",
            (dict_id, key, self._now()),
        )
        assert row is not None, "RETURNING gives the row"
        self._db.execute(
            "INSERT INTO dict_values VALUES (?,?) ON CONFLICT (entry) DO UPDATE SET value=excluded.value",
            (row["entry"], value),
        )


def _check_key(key: bytes) -> None:
    if len(key) > MAX_KEY_BYTES:
        raise too_large("A key of a dict", len(key), MAX_KEY_BYTES)

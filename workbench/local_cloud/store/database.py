"""Owns the cloud's one SQLite connection.

A lock lets any thread call; statements are small enough for the event loop's thread. In WAL mode each transaction
survives a kill of this process at any moment. One that must survive a power cut as well is `durable`: it waits for the
disk, and would slow down every call if it were the rule. Each noun's module creates the tables that it alone uses.
"""

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.local_cloud.store.damage import DamagedStateError, StateError, is_damage

SCHEMA_VERSION = 5
_READABLE = (0, 4, SCHEMA_VERSION)  # 0: a new file; 4: the same tables, but each content was a file of its own


class StaleStateError(StateError):
    """The state directory was written by a version of the local cloud that has another database schema."""


class Database:
    """One SQLite file, with foreign keys on, rows by name, and explicit transactions (re-entrant)."""

    def __init__(self, path: Path) -> None:
        """Open a database file, or make one that only its owner can read.

        Raises StaleStateError for a file of another version, DamagedStateError for a damaged one, and sqlite3.Error for
        any other failure.
        """
        if str(path) != ":memory:":
            if not path.exists():
                _make(path)
            elif path.stat().st_size == 0:
                raise DamagedStateError(f"{path} is damaged: it is empty")
        self._lock = threading.RLock()
        self._depth = 0
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        try:
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=5000"):
                self._connection.execute(f"PRAGMA {pragma}")
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            if is_damage(error):
                raise DamagedStateError(f"{path} is damaged: {error}") from error
            raise
        if found not in _READABLE:
            self._connection.close()
            raise StaleStateError(
                f"the state in {path.parent} has version {found}, this local cloud writes version {SCHEMA_VERSION}: "
                "run `workbench cloud reset` to start with an empty one"
            )
        self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def script(self, ddl: str) -> None:
        """Create tables; every statement must be idempotent (IF NOT EXISTS)."""
        with self._lock:
            self._connection.executescript(ddl)

    def execute(self, sql: str, parameters: tuple[object, ...] = ()) -> int:
        """Run one statement and return the number of rows it changed."""
        with self._lock:
            return self._connection.execute(sql, parameters).rowcount

    def executemany(self, sql: str, rows: list[tuple[object, ...]]) -> None:
        """Run one statement for each row."""
        with self._lock:
            self._connection.executemany(sql, rows)

    def all(self, sql: str, parameters: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        """Return every row of a query."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def one(self, sql: str, parameters: tuple[object, ...] = ()) -> sqlite3.Row | None:
        """Return the first row of a query, None when there is none."""
        with self._lock:
            row: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            return row

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Commit all statements of the block, or none when it raises. The block must not await.

        `durable` waits until the commit is on the disk; it has an effect on the outermost transaction only.
        """
        with self._lock, self._waiting_for_the_disk(durable and self._depth == 0):
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._connection.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._connection.execute("COMMIT")

    @contextmanager
    def _waiting_for_the_disk(self, wanted: bool) -> Iterator[None]:
        """Make commits wait for the disk while the block runs, if `wanted`.

        Entered before the transaction begins, because SQLite ignores the pragma inside of one.
        """
        if not wanted:
            yield
            return
        self._connection.execute("PRAGMA synchronous=FULL")
        try:
            yield
        finally:
            self._connection.execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        """Close the file; further calls raise sqlite3.ProgrammingError."""
        with self._lock:
            self._connection.close()


def _make(path: Path) -> None:
    """Make an empty database under another name and rename it, so that an empty file at `path` always means damage."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        connection = sqlite3.connect(new)
        try:
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        finally:
            connection.close()
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise

"""Owns the cloud's one SQLite connection.

A lock lets any thread call; statements are small enough for the event loop's thread. In WAL mode each transaction
survives a kill of this process at any moment. One that must survive a power cut as well is `durable`: it waits for the
disk, and would slow down every call if it were the rule. Whoever waits for the disk does not have the lock: a disk that
takes seconds must not hold up the event loop. Each noun's module creates the tables that it alone uses.
"""

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from workbench.local_cloud.base.disk import sync
from workbench.local_cloud.store.damage import DamagedStateError, StateError, is_damage

SCHEMA_VERSION = 5
# A commit that makes the log (WAL) this long moves it into the database itself, and waits for the disk in doing so. It
# is for logs that nobody calls `checkpoint` for, or that grow while that works.
_LONGEST_LOG_PAGES = 16_000
KEPT_LOG_BYTES = 4 * 1024 * 1024  # to which a longer log is cut when it is written from its beginning again
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
        self._path = None if str(path) == ":memory:" else path
        self._named = False  # whether the log's name is on the disk
        if self._path is not None:
            if not path.exists():
                _make(path)
            elif path.stat().st_size == 0:
                raise DamagedStateError(f"{path} is damaged: it is empty")
        self._lock = threading.RLock()
        self._depth = 0
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        try:
            for pragma in (
                "journal_mode=WAL",
                "synchronous=NORMAL",
                "foreign_keys=ON",
                "secure_delete=ON",  # a deleted secret leaves no bytes behind, whatever the build of SQLite does
                "busy_timeout=5000",
                f"wal_autocheckpoint={_LONGEST_LOG_PAGES}",
                f"journal_size_limit={KEPT_LOG_BYTES}",
            ):
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

        `durable` waits until the commit is on the disk, where others see it before; it has an effect on the outermost
        transaction only. Raises OSError when the disk does not take it.
        """
        with self._lock:
            outermost = self._depth == 0
            if outermost:
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
        if durable and outermost:
            self._wait_for_the_disk()

    def _wait_for_the_disk(self) -> None:
        """Return when everything that was committed is on the disk.

        It is in the log, or it was moved into the database, which SQLite does only with the disk's confirmation.
        """
        if self._path is None:
            return
        with suppress(FileNotFoundError):  # then all of it was moved
            sync(self._log)
        if not self._named:
            sync(self._path.parent)
            self._named = True

    @property
    def _log(self) -> Path:
        assert self._path is not None
        return self._path.with_name(f"{self._path.name}-wal")

    @property
    def log_bytes(self) -> int:
        """The length of the log: above `KEPT_LOG_BYTES`, `checkpoint` shortens it."""
        return self._log.stat().st_size if self._path is not None and self._log.exists() else 0

    def checkpoint(self) -> None:
        """Move what the log has into the database, so that the log is written from its beginning again.

        Waits for the disk, and nobody else with it. To be called from a thread that may wait.
        """
        if self._path is not None:
            with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

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

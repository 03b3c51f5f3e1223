"""Transactions: all or nothing; those that a power cut must not take wait for the disk, the others do not."""

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from workbench.local_cloud.store.database import KEPT_LOG_BYTES, SCHEMA_VERSION, Database, StaleStateError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "state.db")
    opened.script("CREATE TABLE IF NOT EXISTS numbers (number INTEGER)")
    yield opened
    opened.close()


def numbers(database: Database) -> list[int]:
    return [int(row["number"]) for row in database.all("SELECT number FROM numbers")]


class Disk:
    """Records what waits for the disk, which takes it as soon as `takes` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.reached = threading.Event()
        self.takes = threading.Event()
        self.takes.set()
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self._wait)

    def _wait(self, descriptor: int) -> None:
        self.asked.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        self.reached.set()
        assert self.takes.wait(30)
        self._sync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_only_durable_transactions_wait_for_the_disk(database: Database, disk: Disk) -> None:
    with database.transaction():
        database.execute("INSERT INTO numbers VALUES (0)")
        with database.transaction(durable=True):
            pass  # it is a part of one that is not
    assert disk.asked == []
    with database.transaction(durable=True):
        database.execute("INSERT INTO numbers VALUES (1)")
        with database.transaction(durable=True):
            database.execute("INSERT INTO numbers VALUES (2)")
        assert disk.asked == []
    assert disk.asked[0] == "state.db-wal"
    assert len(disk.asked) == 2  # the log, and its name
    with database.transaction(durable=True):
        database.execute("INSERT INTO numbers VALUES (3)")
    assert disk.asked[2:] == ["state.db-wal"]
    assert numbers(database) == [0, 1, 2, 3]


def test_nobody_else_waits_for_the_disk(database: Database, disk: Disk) -> None:
    """The event loop's thread uses the same database: a slow disk would hold up every stream."""
    disk.takes.clear()
    ended = threading.Event()

    def commit() -> None:
        with database.transaction(durable=True):
            database.execute("INSERT INTO numbers VALUES (1)")
        ended.set()

    other = threading.Thread(target=commit)
    other.start()
    try:
        assert disk.reached.wait(30)
        with database.transaction():
            database.execute("INSERT INTO numbers VALUES (2)")
        assert numbers(database) == [1, 2]
        assert not ended.is_set()
    finally:
        disk.takes.set()
        other.join(30)
    assert ended.is_set()


def test_a_disk_that_takes_nothing_is_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), database.transaction(durable=True):
        database.execute("INSERT INTO numbers VALUES (1)")


def test_a_transaction_that_fails_leaves_nothing_and_waits_for_nothing(database: Database, disk: Disk) -> None:
    def fails() -> None:
        with database.transaction(durable=True):
            database.execute("INSERT INTO numbers VALUES (1)")
            database.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(sqlite3.OperationalError):
        fails()
    assert numbers(database) == []
    assert disk.asked == []


def test_the_log_is_moved_into_the_database_and_written_from_its_beginning(database: Database, tmp_path: Path) -> None:
    for number in range(2000):
        with database.transaction():
            database.execute("INSERT INTO numbers VALUES (?)", (number,))
    assert database.log_bytes > KEPT_LOG_BYTES
    database.checkpoint()
    for number in range(100):
        with database.transaction():
            database.execute("INSERT INTO numbers VALUES (?)", (number,))
    assert database.log_bytes == KEPT_LOG_BYTES
    assert len(numbers(database)) == 2100
    (tmp_path / "copy.db").write_bytes((tmp_path / "state.db").read_bytes())
    with closing(sqlite3.connect(tmp_path / "copy.db")) as without_log:
        assert without_log.execute("SELECT COUNT(*) FROM numbers").fetchone() == (2000,)


def test_a_database_in_memory_has_no_log() -> None:
    memory = Database(Path(":memory:"))
    memory.checkpoint()
    with memory.transaction(durable=True):
        memory.execute("CREATE TABLE numbers (number INTEGER)")
    assert memory.log_bytes == 0
    memory.close()


@pytest.mark.parametrize("version", [3, SCHEMA_VERSION + 1])
def test_a_state_of_another_version_is_refused_with_what_to_do(tmp_path: Path, version: int) -> None:
    """An older build refuses a state with packs likewise: it would not find what is in them."""
    _with_version(tmp_path / "cloud.sqlite", version)
    with pytest.raises(StaleStateError, match=f"has version {version}, .*workbench cloud reset"):
        Database(tmp_path / "cloud.sqlite")


def test_a_state_whose_contents_are_files_of_their_own_is_taken_over(tmp_path: Path) -> None:
    _with_version(tmp_path / "cloud.sqlite", 4)
    opened = Database(tmp_path / "cloud.sqlite")
    row = opened.one("PRAGMA user_version")
    opened.close()
    assert row is not None
    assert row[0] == SCHEMA_VERSION


def _with_version(path: Path, version: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()

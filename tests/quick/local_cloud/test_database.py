"""Transactions: all or nothing; those that a power cut must not take wait for the disk, the others do not."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.local_cloud.store.database import SCHEMA_VERSION, Database, StaleStateError

NORMAL, FULL = 1, 2  # SQLite's numbers for PRAGMA synchronous


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "state.db")
    opened.script("CREATE TABLE IF NOT EXISTS numbers (number INTEGER)")
    yield opened
    opened.close()


def waits(database: Database) -> int:
    row = database.one("PRAGMA synchronous")
    assert row is not None
    return int(row[0])


def numbers(database: Database) -> list[int]:
    return [int(row["number"]) for row in database.all("SELECT number FROM numbers")]


def test_only_durable_transactions_wait_for_the_disk(database: Database) -> None:
    assert waits(database) == NORMAL
    with database.transaction(durable=True):
        database.execute("INSERT INTO numbers VALUES (1)")
        with database.transaction():
            assert waits(database) == FULL
    with database.transaction():
        assert waits(database) == NORMAL
    assert numbers(database) == [1]


def test_a_transaction_that_fails_leaves_nothing_and_no_waiting(database: Database) -> None:
    def fails() -> None:
        with database.transaction(durable=True):
            database.execute("INSERT INTO numbers VALUES (1)")
            database.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(sqlite3.OperationalError):
        fails()
    assert numbers(database) == []
    assert waits(database) == NORMAL


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

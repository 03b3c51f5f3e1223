"""Transactions: all or nothing; those that a power cut must not take wait for the disk, the others do not."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.local_cloud.store.database import Database

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

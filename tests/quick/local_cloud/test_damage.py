"""Damaged state is moved aside and named: nothing is removed, and nothing begins anew without a word."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from workbench.local_cloud.process import maintenance
from workbench.local_cloud.process.state_directory import State
from workbench.local_cloud.server.http_routes import on_full_disk
from workbench.local_cloud.store import damage
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.damage import DamagedStateError, DiskFullError, StateError
from workbench.local_cloud.store.database import Database


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = State(tmp_path / "state")
    made.create()
    Database(made.root / "cloud.sqlite").close()
    return made


def aside(state: State) -> dict[str, bytes]:
    [place] = state.root.glob("damaged-*")
    assert place.stat().st_mode & 0o077 == 0
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b'{"token_id": "ak-1"}',
        b"\xff\xfe\0",
        b'{"token_id": "ak-1", "token_secret": 1, "signing_key": "x"}',
        b'{"token_id": "ak-1", "token_secret": "", "signing_key": "x"}',
        b'{"token_id": "ak-1", "token_secret": "as-hush", "signing_key": "x", "more": 1}',
    ],
    ids=str,
)
def test_damaged_credentials(state: State, damaged: bytes) -> None:
    before = state.credentials()
    (state.root / "credentials.json").write_bytes(damaged)
    with pytest.raises(DamagedStateError, match=r"credentials\.json: ") as told:
        state.credentials()
    assert "hush" not in str(told.value)
    assert aside(state) == {"credentials.json": damaged}
    assert state.credentials() != before
    assert (state.root / "credentials.json").stat().st_mode & 0o077 == 0


def test_whole_state_is_left_alone(state: State) -> None:
    damage.check(state.root)
    damage.check(State(state.root / "none").root)
    assert state.credentials() == state.credentials()
    assert list(state.root.glob("damaged-*")) == []


@pytest.mark.parametrize("kept", ["content/ab/abcd", "images/im-1/root/file", "cloud.sqlite-wal"])
def test_a_database_that_is_gone_while_something_of_it_is_there(state: State, kept: str) -> None:
    (state.root / "cloud.sqlite").unlink()
    file = state.root / kept
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"kept")
    with pytest.raises(DamagedStateError, match=r"cloud\.sqlite is gone"):
        damage.check(state.root)
    assert aside(state) == {kept: b"kept"}
    damage.check(state.root)


def test_a_database_that_is_empty(state: State) -> None:
    (state.root / "cloud.sqlite").write_bytes(b"")
    with pytest.raises(DamagedStateError, match=r"cloud\.sqlite is empty"):
        damage.check(state.root)
    assert aside(state)["cloud.sqlite"] == b""


@pytest.mark.parametrize("at", [0, 100, 4096], ids=["header", "first page", "second page"])
def test_a_database_with_a_damaged_page(state: State, at: int) -> None:
    path = state.root / "cloud.sqlite"
    database = Database(path)
    database.script("CREATE TABLE t (x TEXT)")
    database.close()
    data = path.read_bytes()
    path.write_bytes(data[:at] + b"\xff" * 200 + data[at + 200 :])

    def opened() -> None:
        with closing(Database(path)) as with_tables:
            with_tables.script("CREATE TABLE IF NOT EXISTS t (x TEXT)")
            with_tables.execute("INSERT INTO t VALUES ('x')")

    with pytest.raises((sqlite3.DatabaseError, StateError)) as failed:
        opened()
    told = damage.as_state_error(state.root, failed.value)
    assert isinstance(told, DamagedStateError)
    assert "cloud.sqlite" in aside(state)


def test_a_full_disk_is_no_damage(state: State) -> None:
    """The limit of pages is what SQLite itself calls a full disk."""
    database = Database(state.root / "cloud.sqlite")
    database.script("PRAGMA max_page_count=4; CREATE TABLE t (x TEXT)")
    with pytest.raises(sqlite3.OperationalError, match="full") as failed:
        database.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 100)
    told = damage.as_state_error(state.root, failed.value)
    database.close()
    assert isinstance(told, DiskFullError)
    assert isinstance(damage.as_state_error(state.root, OSError(28, os.strerror(28))), DiskFullError)
    assert "reset" not in str(told)
    assert list(state.root.glob("damaged-*")) == []


def test_another_failure_is_told_as_it_is(state: State) -> None:
    told = damage.as_state_error(state.root, PermissionError(13, "Permission denied", "/x"))
    assert str(told) == f"the state in {state.root} cannot be used: [Errno 13] Permission denied: '/x'"


@pytest.mark.parametrize("work", [maintenance.fsck, maintenance.gc])
@pytest.mark.parametrize("how", ["gone", "empty", "garbage"])
def test_nothing_is_removed_as_unreferenced_by_a_database_that_is_damaged(
    state: State, work: Callable[[Path], object], how: str
) -> None:
    content = ContentStore(state.root / "content")
    content.add_bytes(b"of a volume")
    database = state.root / "cloud.sqlite"
    database.write_bytes(b"" if how == "empty" else b"garbage" * 1000)
    if how == "gone":
        database.unlink()
    with pytest.raises(DamagedStateError, match=r"cloud\.sqlite"):
        work(state.root)
    assert any(b"of a volume" in path.read_bytes() for path in state.root.rglob("*") if path.is_file())


async def test_an_upload_to_a_full_disk_is_told() -> None:
    async def put(request: Request) -> Response:
        raise OSError(28, os.strerror(28))

    app = Starlette(routes=[Route("/x", put, methods=["PUT"])], exception_handlers={OSError: on_full_disk})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        answer = await client.put("/x")
    assert (answer.status_code, "is full" in answer.text) == (507, True)


def test_a_database_is_its_owner_s_and_never_empty(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = Database(tmp_path / "cloud.sqlite")
        database.script("CREATE TABLE t (x TEXT)")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        ("cloud.sqlite", "cloud.sqlite-wal", "cloud.sqlite-shm"), 0o600
    )
    assert (tmp_path / "cloud.sqlite").stat().st_size > 0
    database.close()

"""Projects have users of their own: none that run share one, and each keeps its own as long as the range lasts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.local_cloud.base.errors import CloudError, Reason
from workbench.local_cloud.sandboxes.engine.host_users import UIDS_VARIABLE, Users
from workbench.local_cloud.store.database import Database

FIRST = 300_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "cloud.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def users(database: Database, monkeypatch: pytest.MonkeyPatch) -> Users:
    return having(3, database, monkeypatch)


def having(size: int, database: Database, monkeypatch: pytest.MonkeyPatch) -> Users:
    monkeypatch.setenv(UIDS_VARIABLE, f"{FIRST}-{FIRST + size - 1}")
    return Users(database)


def test_no_two_of_a_thousand_projects_share_a_user(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    users = having(1000, database, monkeypatch)
    taken = {users.take(f"sb-{number}", f"project {number}") for number in range(1000)}
    assert taken == set(range(FIRST, FIRST + 1000))


def test_a_project_keeps_its_user_and_its_sandboxes_share_it(users: Users, database: Database) -> None:
    first = users.take("sb-1", "a")
    assert users.take("sb-2", "a") == first
    users.release("sb-1")
    users.release("sb-2")
    assert users.take("sb-3", "b") != first
    assert Users(database).take("sb-4", "a") == first  # after a restart, too


def test_a_sandbox_without_a_project_has_a_user_for_itself_which_is_free_again(users: Users) -> None:
    first, second = users.take("sb-1", None), users.take("sb-2", None)
    assert first != second
    users.release("sb-1")
    users.release("sb-1")
    assert users.take("sb-3", None) == first
    assert users.take("sb-4", "a") not in (first, second)


def test_the_user_that_was_idle_for_the_longest_changes_hands_and_none_that_runs(users: Users) -> None:
    taken = {name: users.take(f"sb-{name}", name) for name in ("a", "b", "c")}
    users.release("sb-b")
    users.release("sb-a")
    assert users.take("sb-d", "d") == taken["a"]  # its sandbox had started before that of b
    assert users.take("sb-e", "e") == taken["b"]
    with pytest.raises(CloudError, match=UIDS_VARIABLE) as refused:
        users.take("sb-f", "f")
    assert refused.value.reason is Reason.RESOURCE_EXHAUSTED
    users.release("sb-c")
    assert users.take("sb-a", "a") == taken["c"]


def test_a_range_that_has_become_shorter_gives_new_users(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    users = having(5, database, monkeypatch)
    for number in range(5):
        users.take(f"sb-{number}", f"project {number}")
    shorter = having(2, database, monkeypatch)
    assert {shorter.take("sb-x", "project 4"), shorter.take("sb-y", "project 3")} == {FIRST, FIRST + 1}


def test_what_a_killed_cloud_had_given_out_is_free(users: Users, database: Database) -> None:
    users.take("sb-1", "a")
    for number in range(2, 4):
        users.take(f"sb-{number}", None)
    again = Users(database)
    assert len({again.take("sb-4", None), again.take("sb-5", None), again.take("sb-6", "a")}) == 3

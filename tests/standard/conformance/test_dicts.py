"""Dicts through the stock SDK and CLI."""

import asyncio
import datetime as dt
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import modal
import pytest
from modal.exception import AlreadyExistsError, InvalidError, NotFoundError, RequestSizeError

from tests.support.commands import Cli
from workbench.local_cloud.process.state_directory import Running


@pytest.fixture
def shared(cloud: Running) -> Iterator[modal.Dict]:
    with modal.Dict.ephemeral() as shared:
        yield shared


@pytest.fixture
def name(cloud: Running) -> Iterator[str]:
    """A name that no dict has, whose dict is deleted afterwards."""
    name = f"dict-{uuid.uuid4().hex}"
    yield name
    modal.Dict.objects.delete(name, allow_missing=True)


def test_it_is_used_like_a_dict(shared: modal.Dict) -> None:
    shared["text"] = "some value"
    shared[123] = {"nested": [1, None, b"\0"]}
    shared[("a", 1)] = dt.date(2026, 1, 2)
    assert shared["text"] == "some value"
    assert shared[123] == {"nested": [1, None, b"\0"]}
    assert shared[("a", 1)] == dt.date(2026, 1, 2)
    assert shared.len() == 3
    assert 123 in shared
    assert "123" not in shared
    del shared[123]
    assert not shared.contains(123)
    assert shared.get(123) is None
    assert shared.get(123, "default") == "default"
    with pytest.raises(KeyError):
        shared[123]
    with pytest.raises(KeyError):
        del shared[123]


def test_a_missing_value_and_a_value_of_none_differ(shared: modal.Dict) -> None:
    shared["none"] = None
    assert shared["none"] is None
    assert shared.get("none", "default") is None
    assert shared.pop("none", "default") is None
    assert shared.pop("none", "default") == "default"


def test_keys_values_and_items_tell_all_of_them(shared: modal.Dict) -> None:
    expected = {f"key {number}": number for number in range(250)}
    shared.update(expected)
    assert sorted(shared.keys()) == sorted(expected)
    assert sorted(shared.values()) == sorted(expected.values())
    assert dict(shared.items()) == expected
    shared.clear()
    assert (shared.len(), list(shared.keys()), list(shared.items())) == (0, [], [])


def test_update_takes_mappings_and_keywords_and_overwrites(shared: modal.Dict) -> None:
    shared["b"] = "old"
    shared.update({"a": 1, "b": 2}, c=3)
    shared.update()
    assert dict(shared.items()) == {"a": 1, "b": 2, "c": 3}


def test_put_tells_whether_it_created_the_entry(shared: modal.Dict) -> None:
    assert shared.put("key", 1, skip_if_exists=True)
    assert not shared.put("key", 2, skip_if_exists=True)
    assert shared["key"] == 1
    assert shared.put("key", 3)
    assert shared["key"] == 3


def test_of_many_who_would_create_or_pop_an_entry_one_does(shared: modal.Dict) -> None:
    """This is how people make locks of dicts."""
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(lambda who: shared.put("lock", who, skip_if_exists=True), range(16)))
        assert created.count(True) == 1
        assert shared["lock"] == created.index(True)
        popped = list(pool.map(lambda _: shared.pop("lock", None), range(16)))
    assert [one for one in popped if one is not None] == [created.index(True)]


async def test_it_is_used_from_async_code(cloud: Running) -> None:
    async with modal.Dict.ephemeral() as shared:
        await asyncio.gather(*(shared.put.aio(number, str(number)) for number in range(20)))
        assert {key: value async for key, value in shared.items.aio()} == {n: str(n) for n in range(20)}
        assert await shared.pop.aio(7) == "7"
        assert await shared.len.aio() == 19


def test_large_values_come_back_whole(shared: modal.Dict) -> None:
    value = bytes(range(256)) * (10 * 4096)
    shared["large"] = value
    assert shared["large"] == value


def test_what_is_over_a_limit_is_refused_whole(shared: modal.Dict) -> None:
    with pytest.raises(RequestSizeError):
        shared.put("large", bytes(100 * 1024 * 1024 + 1))
    with pytest.raises(InvalidError):
        shared.update(dict.fromkeys(range(10_001)))
    assert shared.len() == 0


def test_a_dict_is_found_by_name_and_by_id(name: str) -> None:
    with pytest.raises(NotFoundError, match=name):
        modal.Dict.from_name(name).len()
    made = modal.Dict.from_name(name, create_if_missing=True)
    made["key"] = "value"
    assert modal.Dict.from_name(name)["key"] == "value"
    found = modal.Dict.from_id(made.object_id)
    assert found["key"] == "value"
    assert found.name == name
    info = found.info()
    assert info.name == name
    assert abs(info.created_at.timestamp() - time.time()) < 600


def test_named_dicts_are_created_listed_and_deleted(name: str) -> None:
    with pytest.raises(NotFoundError):
        modal.Dict.objects.delete(name)
    modal.Dict.objects.create(name)
    with pytest.raises(AlreadyExistsError, match=name):
        modal.Dict.objects.create(name)
    modal.Dict.objects.create(name, allow_existing=True)
    (newest,) = modal.Dict.objects.list(max_objects=1)
    assert newest.name == name
    newest["key"] = "value"
    before = newest.info().created_at - dt.timedelta(milliseconds=1)  # it tells no more than microseconds
    assert name not in [one.name for one in modal.Dict.objects.list(created_before=before)]
    modal.Dict.objects.delete(name)
    assert name not in [one.name for one in modal.Dict.objects.list()]
    with pytest.raises(NotFoundError):
        newest.get("key")


def test_more_dicts_than_fit_on_a_page_are_listed_newest_first(cloud: Running) -> None:
    names = [f"page-{uuid.uuid4().hex}" for _ in range(105)]
    try:
        for one in names:
            modal.Dict.objects.create(one)
        listed = [one.name for one in modal.Dict.objects.list() if one.name in names]
    finally:
        for one in names:
            modal.Dict.objects.delete(one, allow_missing=True)
    assert listed == names[::-1]


def test_a_dict_made_anew_under_an_old_name_is_empty(name: str) -> None:
    old = modal.Dict.from_name(name, create_if_missing=True)
    old["key"] = "value"
    modal.Dict.objects.delete(name)
    new = modal.Dict.from_name(name, create_if_missing=True)
    assert new.len() == 0
    assert new.object_id != old.object_id


def test_ephemeral_dicts_are_not_listed_and_hold_their_own(cloud: Running) -> None:
    with modal.Dict.ephemeral() as one, modal.Dict.ephemeral() as other:
        one["key"] = 1
        other["key"] = 2
        assert (one["key"], other["key"]) == (1, 2)
        assert modal.Dict.from_id(one.object_id)["key"] == 1
        assert {one.object_id, other.object_id}.isdisjoint(d.object_id for d in modal.Dict.objects.list())


def test_the_stock_commands_manage_and_show_dicts(modal_cli: Cli, name: str) -> None:
    modal_cli("dict", "create", name)
    modal_cli("dict", "create", name)
    assert name in [row["name"] for row in json.loads(modal_cli("dict", "list", "--json"))]
    modal.Dict.from_name(name).update({"colour": "blue", 7: [1, 2]})
    assert modal_cli("dict", "get", name, "colour").strip() == "blue"
    rows = json.loads(modal_cli("dict", "items", name, "--json"))
    assert sorted((str(row["key"]), row["value"]) for row in rows) == [("7", [1, 2]), ("colour", "blue")]
    assert "..." in modal_cli("dict", "items", name, "1")
    modal_cli("dict", "clear", name, "--yes")
    assert json.loads(modal_cli("dict", "items", name, "--json")) == []
    modal_cli("dict", "delete", name, "--yes")
    assert name not in modal_cli("dict", "list")
    assert "not found" in modal_cli("dict", "get", name, "colour", check=False)
    modal_cli("dict", "delete", name, "--yes", "--allow-missing")

"""Queues through the stock SDK and CLI."""

import asyncio
import datetime as dt
import json
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import modal
import pytest
from modal.exception import AlreadyExistsError, InvalidError, NotFoundError, RequestSizeError

from tests.support.commands import COMMAND_TIMEOUT_S, Cli
from workbench.local_cloud.process.state_directory import Running

LONG_S = 40.0  # a wait that something ends long before
SOON_S = 10.0  # by when that must have happened, on a busy machine


@pytest.fixture
def shared(cloud: Running) -> Iterator[modal.Queue]:
    with modal.Queue.ephemeral() as shared:
        yield shared


@pytest.fixture
def name(cloud: Running) -> Iterator[str]:
    """A name that no queue has, whose queue is deleted afterwards."""
    name = f"queue-{uuid.uuid4().hex}"
    yield name
    modal.Queue.objects.delete(name, allow_missing=True)


def test_what_comes_first_goes_first(shared: modal.Queue) -> None:
    shared.put("one")
    shared.put_many([2, None, {"four": b"\0"}])
    assert shared.len() == 4
    assert shared.get() == "one"
    assert shared.get_many(2) == [2, None]
    assert shared.get_many(10) == [{"four": b"\0"}]
    assert shared.len() == 0


def test_partitions_do_not_see_each_other(shared: modal.Queue) -> None:
    shared.put(0)
    shared.put(1, partition="foo")
    shared.put_many([2, 3], partition="é" * 32)
    assert shared.get(partition="é" * 32) == 2
    assert (shared.len(), shared.len(partition="foo"), shared.len(partition="other")) == (1, 1, 0)
    assert shared.len(total=True) == 3
    shared.clear(partition="foo")
    assert shared.get(block=False, partition="foo") is None
    assert shared.len(total=True) == 2
    shared.clear()
    assert (shared.len(), shared.len(total=True)) == (0, 1)
    shared.clear(all=True)
    assert shared.len(total=True) == 0


@pytest.mark.parametrize("partition", ["", "x" * 65, "é" * 33])
def test_a_partition_key_is_1_to_64_bytes(shared: modal.Queue, partition: str) -> None:
    with pytest.raises(InvalidError, match="between 1 and 64"):
        shared.put(1, partition=partition)


def test_an_empty_queue_answers_none_or_raises_empty(shared: modal.Queue) -> None:
    assert shared.get(block=False) is None
    assert shared.get_many(5, block=False) == []
    started = time.monotonic()
    with pytest.raises(queue.Empty):
        shared.get(timeout=0.5)
    assert 0.5 <= time.monotonic() - started < SOON_S
    with pytest.raises(queue.Empty):
        shared.get_many(2, timeout=0.1)


def test_a_waiting_reader_is_woken_at_once(shared: modal.Queue) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: shared.get(timeout=LONG_S, partition="p"))
        time.sleep(0.5)
        assert not waiting.done()
        shared.put("elsewhere")
        shared.put("here", partition="p")
        assert waiting.result(SOON_S) == "here"
    assert shared.get_many(5) == ["elsewhere"]


def test_a_value_goes_to_one_of_many_waiting_readers(shared: modal.Queue) -> None:
    """All of them wait before the first value is put; every value is got by exactly one."""
    readers, each = 12, 5
    shared.len()
    with ThreadPoolExecutor(readers) as pool:
        waiting = [pool.submit(lambda: [shared.get(timeout=LONG_S) for _ in range(each)]) for _ in range(readers)]
        time.sleep(0.5)
        for start in range(0, readers * each, 4):
            shared.put_many(list(range(start, start + 4)))
        got = [reader.result(LONG_S) for reader in waiting]
    assert sorted(value for values in got for value in values) == list(range(readers * each))
    assert all(values == sorted(values) for values in got)
    assert shared.len() == 0


def test_a_full_partition_refuses_until_there_is_room(shared: modal.Queue) -> None:
    shared.put_many(list(range(5000)))
    with pytest.raises(queue.Full):
        shared.put("more", block=False)
    with pytest.raises(queue.Full):
        shared.put("more", timeout=0.5)
    shared.put("elsewhere", partition="other", block=False)
    assert shared.get_many(2) == [0, 1]
    with pytest.raises(queue.Full):
        shared.put_many(["a", "b", "c"], block=False)
    assert shared.len() == 4998
    shared.put_many(["a", "b"], block=False)
    assert shared.get_many(6000)[-3:] == [4999, "a", "b"]


def test_a_blocked_put_goes_on_when_there_is_room(shared: modal.Queue) -> None:
    shared.put_many(list(range(5000)))
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(lambda: shared.put("late", timeout=LONG_S))
        time.sleep(0.5)
        assert not blocked.done()
        assert len(shared.get_many(5000)) == 5000
        blocked.result(LONG_S)
    assert shared.get(block=False) == "late"


def test_items_are_at_most_1_mib(shared: modal.Queue) -> None:
    whole = bytes(range(256)) * 4095
    shared.put(whole)
    assert shared.get() == whole
    with pytest.raises(RequestSizeError):
        shared.put(bytes(1024 * 1024))  # and what serialising adds
    with pytest.raises(RequestSizeError):
        shared.put_many(["small", bytes(1024 * 1024)], block=False)
    assert shared.len() == 0


def test_a_partition_expires_by_its_own_ttl(shared: modal.Queue) -> None:
    shared.put("stays")
    shared.put("goes", partition="short", partition_ttl=1)
    deadline = time.monotonic() + SOON_S
    while shared.len(partition="short"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert shared.get(partition="short", block=False) is None
    assert shared.get(block=False) == "stays"


def test_iterating_shows_everything_and_takes_nothing(shared: modal.Queue) -> None:
    expected = list(range(250))
    shared.put_many(expected)
    shared.put("elsewhere", partition="other")
    assert list(shared.iterate()) == expected
    assert list(shared.iterate(partition="other")) == ["elsewhere"]
    assert list(shared.iterate(partition="none")) == []
    assert shared.len() == 250


def test_iterating_waits_for_what_comes_later(shared: modal.Queue) -> None:
    shared.put("first")
    seen: list[str] = []
    for value in shared.iterate(item_poll_timeout=3):
        seen.append(value)
        if value == "first":
            threading.Timer(0.5, lambda: (shared.get(), shared.put("second"))).start()
    assert seen == ["first", "second"]


async def test_it_is_used_from_async_code(cloud: Running) -> None:
    async with modal.Queue.ephemeral() as shared:
        reader = asyncio.create_task(shared.get_many.aio(10, timeout=LONG_S))
        await asyncio.sleep(0.3)
        await shared.put_many.aio([1, 2, 3])
        assert await asyncio.wait_for(reader, SOON_S) == [1, 2, 3]
        await shared.put.aio(4)
        assert [value async for value in shared.iterate.aio()] == [4]


async def test_a_cancelled_reader_leaves_the_next_value_to_others(cloud: Running) -> None:
    async with modal.Queue.ephemeral() as shared:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(shared.get.aio(timeout=LONG_S), 0.5)
        await asyncio.sleep(0.5)  # the news travels behind the exception
        await shared.put.aio("kept")
        assert await shared.get.aio(block=False) == "kept"


def test_a_killed_reader_leaves_the_next_value_to_others(shared: modal.Queue) -> None:
    code = "import modal, sys; q = modal.Queue.from_id(sys.argv[1]); q.len(); print(flush=True); q.get()"
    for number in range(3):
        with subprocess.Popen([sys.executable, "-c", code, shared.object_id], stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None
            reader.stdout.readline()
            time.sleep(0.5)
            reader.kill()
            reader.wait(COMMAND_TIMEOUT_S)
        shared.put(number)
        assert shared.get(timeout=1) == number


def test_a_queue_is_found_by_name_and_by_id(name: str) -> None:
    with pytest.raises(NotFoundError, match=name):
        modal.Queue.from_name(name).len()
    made = modal.Queue.from_name(name, create_if_missing=True)
    made.put("value")
    found = modal.Queue.from_id(made.object_id)
    assert found.get(block=False) == "value"
    assert found.name == name
    info = found.info()
    assert info.name == name
    assert abs(info.created_at.timestamp() - time.time()) < 600


def test_named_queues_are_created_listed_and_deleted(name: str) -> None:
    with pytest.raises(NotFoundError):
        modal.Queue.objects.delete(name)
    modal.Queue.objects.create(name)
    with pytest.raises(AlreadyExistsError, match=name):
        modal.Queue.objects.create(name)
    modal.Queue.objects.create(name, allow_existing=True)
    (newest,) = modal.Queue.objects.list(max_objects=1)
    assert newest.name == name
    before = newest.info().created_at - dt.timedelta(milliseconds=1)  # it tells no more than microseconds
    assert name not in [one.name for one in modal.Queue.objects.list(created_before=before)]
    modal.Queue.objects.delete(name)
    assert name not in [one.name for one in modal.Queue.objects.list()]


def test_an_ephemeral_queue_is_not_listed(shared: modal.Queue) -> None:
    shared.put(1)
    assert shared.object_id not in [one.object_id for one in modal.Queue.objects.list()]
    assert modal.Queue.from_id(shared.object_id).get(block=False) == 1


def test_the_stock_commands_manage_and_show_queues(modal_cli: Cli, name: str) -> None:
    modal_cli("queue", "create", name)
    modal_cli("queue", "create", name)
    shared = modal.Queue.from_name(name)
    shared.put_many(["red", "green", "blue"])
    shared.put("white", partition="p")
    (row,) = [row for row in json.loads(modal_cli("queue", "list", "--json")) if row["name"] == name]
    assert (row["partitions"], row["total_size"], row["total_size_truncated"]) == (2, 4, False)
    assert modal_cli("queue", "peek", name).split() == ["red"]
    assert modal_cli("queue", "peek", name, "2").split() == ["red", "green"]
    assert modal_cli("queue", "peek", name, "-p", "p").split() == ["white"]
    assert modal_cli("queue", "len", name).split() == ["3"]
    assert modal_cli("queue", "len", name, "--total").split() == ["4"]
    modal_cli("queue", "clear", name, "--yes")
    assert modal_cli("queue", "len", name, "--total").split() == ["1"]
    modal_cli("queue", "clear", name, "--all", "--yes")
    assert modal_cli("queue", "len", name, "--total").split() == ["0"]
    modal_cli("queue", "delete", name, "--yes")
    assert name not in modal_cli("queue", "list")
    assert "not found" in modal_cli("queue", "len", name, check=False)

"""Queues behave like lists that expire: whatever is done to one, in any order, is done to a plain model as well."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import CloudError, Reason
from workbench.local_cloud.objects import queues as module
from workbench.local_cloud.objects.queues import MAX_PARTITION_ITEMS, Item, Queues, Taken
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.names import Objects

SMALL = {"MAX_PARTITIONS": 2, "MAX_PARTITION_ITEMS": 6, "MAX_PARTITION_BYTES": 20, "MAX_ITEM_BYTES": 9}
KEYS = st.sampled_from([b"", b"a", b"\0" * 64])
# Mostly what fits, so that partitions fill up; sometimes one byte or one value too many.
VALUES = st.lists(st.sampled_from([b"", b"1", b"22", b"4444", b"7777777", b"9" * 9, b"x" * 10]), max_size=7)


class Clock:
    """A time in Unix seconds that moves when it is told to."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


def make(path: Path, clock: Callable[[], float]) -> tuple[Database, Queues, str]:
    database = Database(path)
    objects = Objects(database)
    queues = Queues(database, objects, now=clock)
    queue_id, _ = objects.get_or_create(
        "queue", "qu", environment="", name="q", creation_type=api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
    )
    return database, queues, queue_id


class QueueModel(RuleBasedStateMachine):
    """A queue with small limits beside lists of values; `ends` says when each partition expires."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = patch.multiple(module, **SMALL)
        self.limits.start()
        self.clock = Clock()
        self.database, self.queues, self.queue_id = make(Path(":memory:"), self.clock)
        self.model: dict[bytes, list[bytes]] = {}
        self.ends: dict[bytes, float] = {}
        self.taken: Taken | None = None

    def teardown(self) -> None:
        self.database.close()
        self.limits.stop()

    def expected(self, key: bytes, values: list[bytes]) -> Reason | None:
        """How the model refuses a put."""
        here = self.model.get(key, [])
        if any(len(value) > SMALL["MAX_ITEM_BYTES"] for value in values):
            return Reason.INVALID_ARGUMENT
        size = sum(map(len, values))
        if len(values) > SMALL["MAX_PARTITION_ITEMS"] or size > SMALL["MAX_PARTITION_BYTES"]:
            return Reason.INVALID_ARGUMENT
        if values and not here and len(self.model) >= SMALL["MAX_PARTITIONS"]:
            return Reason.RESOURCE_EXHAUSTED
        if len(here) + len(values) > SMALL["MAX_PARTITION_ITEMS"]:
            return Reason.RESOURCE_EXHAUSTED if values else None
        if size + sum(map(len, here)) > SMALL["MAX_PARTITION_BYTES"]:
            return Reason.RESOURCE_EXHAUSTED if values else None
        return None

    @rule(key=KEYS, values=VALUES, ttl=st.sampled_from([5, 50]))
    def put(self, key: bytes, values: list[bytes], ttl: int) -> None:
        refusal = self.expected(key, values)
        if refusal is not None:
            with pytest.raises(CloudError) as caught:
                self.queues.put(self.queue_id, key, values, ttl_s=ttl)
            assert caught.value.reason == refusal
            return
        self.queues.put(self.queue_id, key, values, ttl_s=ttl)
        if values:
            self.model[key] = self.model.get(key, []) + values
            self.ends[key] = self.clock() + ttl

    @rule(key=KEYS, count=st.integers(1, 8))
    def take(self, key: bytes, count: int) -> None:
        taken = self.queues.take(self.queue_id, key, count)
        here = self.model.get(key, [])
        assert (taken is None) == (not here)
        if taken is not None:
            assert [item.value for item in taken.items] == here[:count]
            assert taken.expires_at == self.ends[key]
            self.model[key] = here[count:]
            self.forget_empty()
            self.taken = taken

    @precondition(lambda self: self.taken is not None)
    @rule()
    def put_back(self) -> None:
        """Only what was not overtaken by a later put can be told by the model; that is what the RPC does."""
        taken, self.taken = self.taken, None
        assert taken is not None
        self.queues.put_back(taken)
        if taken.key not in self.model and taken.expires_at <= self.clock():
            return
        values = [item.value for item in taken.items]
        self.model[taken.key] = values + self.model.get(taken.key, [])
        self.ends.setdefault(taken.key, taken.expires_at)

    @rule(key=KEYS)
    def clear(self, key: bytes) -> None:
        self.queues.clear(self.queue_id, key)
        self.model.pop(key, None)
        self.forget_empty()

    @rule()
    def clear_all(self) -> None:
        self.queues.clear_all(self.queue_id)
        self.model.clear()
        self.forget_empty()

    @rule(seconds=st.sampled_from([3, 5, 50]))
    def time_passes(self, seconds: int) -> None:
        self.clock.at += seconds
        for key in [key for key, end in self.ends.items() if end <= self.clock()]:
            del self.model[key]
        self.forget_empty()

    @rule()
    def sweep(self) -> None:
        while self.queues.drop_expired():
            pass

    def forget_empty(self) -> None:
        self.model = {key: values for key, values in self.model.items() if values}
        self.ends = {key: self.ends[key] for key in self.model}

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        for key in (b"", b"a", b"\0" * 64):
            seen: list[Item] = []
            while page := self.queues.after(self.queue_id, key, seen[-1].number if seen else 0, limit=2):
                seen.extend(page)
            assert [item.value for item in seen] == self.model.get(key, [])
            assert self.queues.length(self.queue_id, key) == len(seen)
        assert self.queues.totals(self.queue_id) == (len(self.model), sum(map(len, self.model.values())))


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=150, stateful_step_count=30)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_items_outlive_the_cloud_and_their_numbers_are_never_used_again(tmp_path: Path, clock: Clock) -> None:
    """An iteration that goes on after a restart must neither miss nor repeat anything."""
    database, queues, queue_id = make(tmp_path / "cloud.sqlite", clock)
    queues.put(queue_id, b"", [b"one", b"two"])
    (one, two) = queues.after(queue_id, b"", 0, limit=10)
    assert queues.take(queue_id, b"", 2) is not None
    database.close()
    database, queues, queue_id = make(tmp_path / "cloud.sqlite", clock)
    queues.put(queue_id, b"", [b"three"])
    (three,) = queues.after(queue_id, b"", two.number, limit=10)
    assert one.number < two.number < three.number
    database.close()


def test_a_partition_is_cleared_a_day_after_its_last_put(clock: Clock) -> None:
    database, queues, queue_id = make(Path(":memory:"), clock)
    queues.put(queue_id, b"", [b"one"])
    clock.at += 23 * 3600
    queues.put(queue_id, b"", [b"two"])
    clock.at += 24 * 3600 - 1
    assert queues.length(queue_id, b"") == 2
    clock.at += 1
    assert queues.length(queue_id, b"") == 0
    assert queues.take(queue_id, b"", 1) is None
    assert (queues.drop_expired(), queues.drop_expired()) == (1, 0)
    database.close()


def test_a_put_does_not_bring_back_what_has_expired(clock: Clock) -> None:
    """An expired partition stays on the disk until it is swept; it must not be seen again."""
    database, queues, queue_id = make(Path(":memory:"), clock)
    queues.put(queue_id, b"", [b"old"], ttl_s=1)
    clock.at += 1
    queues.put(queue_id, b"", [b"new"])
    taken = queues.take(queue_id, b"", 5)
    assert taken is not None
    assert [item.value for item in taken.items] == [b"new"]
    database.close()


def test_what_is_taken_makes_room(clock: Clock) -> None:
    database, queues, queue_id = make(Path(":memory:"), clock)
    queues.put(queue_id, b"", [bytes(2**20)] * 64)
    for _ in range(3):
        assert queues.take(queue_id, b"", 2) is not None
        queues.put(queue_id, b"", [bytes(2**20)] * 2)
    assert queues.length(queue_id, b"") == 64
    database.close()


@pytest.mark.parametrize("ttl", [0, -1, 24 * 3600 + 1])
def test_a_ttl_is_between_a_second_and_a_day(clock: Clock, ttl: int) -> None:
    database, queues, queue_id = make(Path(":memory:"), clock)
    with pytest.raises(CloudError, match="TTL is 1 to 86400 seconds"):
        queues.put(queue_id, b"", [b"one"], ttl_s=ttl)
    database.close()


def test_what_could_never_fit_is_invalid_and_not_full(clock: Clock) -> None:
    """The SDK waits for ever for a full queue to empty."""
    database, queues, queue_id = make(Path(":memory:"), clock)
    for values in ([b""] * (MAX_PARTITION_ITEMS + 1), [bytes(2**20 + 1)], [bytes(2**20)] * 65):
        with pytest.raises(CloudError) as caught:
            queues.put(queue_id, b"", values)
        assert caught.value.reason == Reason.INVALID_ARGUMENT
    queues.put(queue_id, b"", [bytes(2**20)] * 64)
    with pytest.raises(CloudError) as caught:
        queues.put(queue_id, b"", [b"1"])
    assert caught.value.reason == Reason.RESOURCE_EXHAUSTED
    database.close()


def test_a_partition_key_is_at_most_64_bytes(clock: Clock) -> None:
    database, queues, queue_id = make(Path(":memory:"), clock)
    for use in (
        lambda key: queues.put(queue_id, key, [b"1"]),
        lambda key: queues.take(queue_id, key, 1),
        lambda key: queues.after(queue_id, key, 0, limit=1),
        lambda key: queues.length(queue_id, key),
        lambda key: queues.clear(queue_id, key),
    ):
        with pytest.raises(CloudError, match="at most 64 bytes"):
            use(b"k" * 65)
    database.close()

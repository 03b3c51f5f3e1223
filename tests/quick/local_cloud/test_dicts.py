"""Dicts behave like plain dicts whose entries expire: whatever is done to one is done to a model as well."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from modal_proto import api_pb2

from tests.quick.local_cloud.test_queues import Clock
from workbench.local_cloud.base.errors import CloudError, Reason
from workbench.local_cloud.objects.dicts import (
    LIFETIME_S,
    MAX_ENTRIES_PER_UPDATE,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    READ_NOTED_EVERY_S,
    Dicts,
)
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.names import Objects

KEYS = st.sampled_from([b"", b"\0", b"a", b"ab", b"\xff" * 300])
VALUES = st.binary(max_size=20)


def make(path: Path, clock: Callable[[], float]) -> tuple[Database, Dicts, str]:
    database = Database(path)
    objects = Objects(database)
    dicts = Dicts(database, objects, now=clock)
    dict_id, _ = objects.get_or_create(
        "dict", "di", environment="", name="d", creation_type=api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
    )
    return database, dicts, dict_id


class DictModel(RuleBasedStateMachine):
    """A dict beside a plain one. Time moves in days, so that what expires is sure: `used` says when each was used."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.database, self.dicts, self.dict_id = make(Path(":memory:"), self.clock)
        self.model: dict[bytes, bytes] = {}
        self.used: dict[bytes, float] = {}

    def teardown(self) -> None:
        self.database.close()

    @rule(entries=st.lists(st.tuples(KEYS, VALUES), max_size=4), if_not_exists=st.booleans())
    def update(self, entries: list[tuple[bytes, bytes]], if_not_exists: bool) -> None:
        changed = self.dicts.update(self.dict_id, entries, if_not_exists=if_not_exists)
        expected = False
        for key, value in entries:
            self.used[key] = self.clock()
            if not (if_not_exists and key in self.model):
                self.model[key], expected = value, True
        assert changed == expected

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self.dicts.get(self.dict_id, key) == self.model.get(key)
        self.used[key] = self.clock()

    @rule(key=KEYS)
    def contains(self, key: bytes) -> None:
        assert self.dicts.contains(self.dict_id, key) == (key in self.model)
        self.used[key] = self.clock()

    @rule(key=KEYS)
    def pop(self, key: bytes) -> None:
        assert self.dicts.pop(self.dict_id, key) == self.model.pop(key, None)

    @rule(values=st.booleans())
    def contents(self, values: bool) -> None:
        found = list(self.dicts.contents(self.dict_id, values=values))
        assert len(found) == len(self.model)
        assert dict(found) == {key: value if values else b"" for key, value in self.model.items()}
        self.used = dict.fromkeys(self.model, self.clock())

    @rule()
    def clear(self) -> None:
        self.dicts.clear(self.dict_id)
        self.model.clear()

    @rule(days=st.integers(1, 8))
    def time_passes(self, days: int) -> None:
        self.clock.at += days * 24 * 3600 + 600
        oldest = self.clock() - LIFETIME_S
        self.model = {key: value for key, value in self.model.items() if self.used[key] >= oldest}

    @rule()
    def sweep(self) -> None:
        while self.dicts.drop_expired():
            pass

    @invariant()
    def it_holds_as_many_as_the_model(self) -> None:
        assert self.dicts.length(self.dict_id) == len(self.model)


TestDictModel = DictModel.TestCase
TestDictModel.settings = settings(max_examples=60, stateful_step_count=30)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_entry_expires_seven_days_after_it_was_last_read_or_written(clock: Clock) -> None:
    """A read is written down at most once a minute, so an entry may live up to a minute longer, never less."""
    database, dicts, dict_id = make(Path(":memory:"), clock)
    dicts.update(dict_id, [(b"read", b"1"), (b"asked for", b"1"), (b"left", b"1")])
    clock.at += LIFETIME_S - 10
    assert dicts.get(dict_id, b"read") == b"1"
    assert dicts.contains(dict_id, b"asked for")
    clock.at += 10 + READ_NOTED_EVERY_S + 1
    assert dict(dicts.contents(dict_id, values=True)) == {b"read": b"1", b"asked for": b"1"}
    assert dicts.update(dict_id, [(b"left", b"2")], if_not_exists=True)
    clock.at += LIFETIME_S
    assert dicts.length(dict_id) == 3
    clock.at += READ_NOTED_EVERY_S + 1
    assert dicts.length(dict_id) == 0
    assert (dicts.drop_expired(), dicts.drop_expired()) == (3, 0)
    database.close()


def test_an_update_is_all_or_nothing(clock: Clock) -> None:
    database, dicts, dict_id = make(Path(":memory:"), clock)
    with pytest.raises(CloudError, match="A key of a dict is at most"):
        dicts.update(dict_id, [(b"good", b"1"), (bytes(MAX_KEY_BYTES + 1), b"2")])
    with pytest.raises(CloudError, match="at most 10,000 entries"):
        dicts.update(dict_id, [(b"%d" % number, b"") for number in range(MAX_ENTRIES_PER_UPDATE + 1)])
    assert dicts.length(dict_id) == 0
    dicts.update(dict_id, [(b"%d" % number, b"") for number in range(MAX_ENTRIES_PER_UPDATE)])
    assert dicts.length(dict_id) == MAX_ENTRIES_PER_UPDATE
    database.close()


def test_a_value_is_at_most_100_mib(clock: Clock) -> None:
    database, dicts, dict_id = make(Path(":memory:"), clock)
    dicts.update(dict_id, [(b"most", bytes(MAX_VALUE_BYTES))])
    with pytest.raises(CloudError, match="at most 104,857,600 bytes"):
        dicts.update(dict_id, [(b"more", bytes(MAX_VALUE_BYTES + 1))])
    value = dicts.get(dict_id, b"most")
    assert value is not None
    assert len(value) == MAX_VALUE_BYTES
    database.close()


def test_entries_outlive_the_cloud_and_go_with_their_dict(tmp_path: Path, clock: Clock) -> None:
    database, dicts, dict_id = make(tmp_path / "cloud.sqlite", clock)
    dicts.update(dict_id, [(b"key", b"value")])
    database.close()
    database, dicts, dict_id = make(tmp_path / "cloud.sqlite", clock)
    assert dicts.get(dict_id, b"key") == b"value"
    Objects(database).delete("dict", dict_id)
    with pytest.raises(CloudError) as caught:
        dicts.get(dict_id, b"key")
    assert caught.value.reason == Reason.NOT_FOUND
    assert database.one("SELECT * FROM dict_values") is None
    database.close()

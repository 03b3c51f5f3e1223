"""Dicts and queues of this machine: they survive the cloud, keep to their environment, and end when abandoned."""

import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import modal
import pytest
from modal.exception import InvalidError, NotFoundError
from modal_proto import api_pb2

from tests.quick.local_cloud.test_queues import Clock
from tests.support import warm
from tests.support.commands import COMMAND_TIMEOUT_S, Cli
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.objects.dict_rpc import DictRpcs
from workbench.local_cloud.objects.dicts import MAX_KEY_BYTES, Dicts
from workbench.local_cloud.objects.queue_rpc import QueueRpcs
from workbench.local_cloud.objects.queues import Queues
from workbench.local_cloud.process import daemon
from workbench.local_cloud.process.state_directory import Running, State
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.ephemeral import SILENCE_S, Ephemeral
from workbench.local_cloud.store.names import Objects

KINDS = [modal.Dict, modal.Queue]
SOON_S = 10.0  # by when what is told at once has arrived, on a busy machine
EPHEMERAL = api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL


def test_what_is_in_dicts_and_queues_survives_a_restart(own_state: State) -> None:
    running, _ = daemon.start(own_state)
    code = (
        "import modal\nmodal.Dict.from_name('d', create_if_missing=True)['colour'] = 'blue'\n"
        "modal.Queue.from_name('q', create_if_missing=True).put_many(['red', 'green'])\n"
    )
    done = warm.run("-c", code, env={**os.environ, **running.env()})
    assert done.returncode == 0, done.stderr
    assert daemon.stop(own_state)
    running, _ = daemon.start(own_state)
    modal_cli = Cli(running.env())
    assert modal_cli("dict", "get", "d", "colour").strip() == "blue"
    assert modal_cli("queue", "peek", "q", "5").split() == ["red", "green"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_is_of_one_environment(
    cloud: Running, modal_cli: Cli, kind: type[modal.Dict] | type[modal.Queue]
) -> None:
    name = f"env-{uuid.uuid4().hex}"
    for environment in ("one", "two"):
        modal_cli("environment", "create", environment)
    kind.objects.create(name, environment_name="one")
    try:
        with pytest.raises(NotFoundError, match="environment 'two'"):
            kind.from_name(name, environment_name="two").hydrate()
        assert [one.name for one in kind.objects.list(environment_name="one")] == [name]
        assert kind.objects.list(environment_name="two") == []
        assert name not in [one.name for one in kind.objects.list()]
    finally:
        kind.objects.delete(name, environment_name="one")
        for environment in ("one", "two"):
            modal_cli("environment", "delete", environment, "--yes")


@pytest.mark.parametrize("kind", KINDS)
def test_the_id_of_something_else_is_not_found(cloud: Running, kind: type[modal.Dict] | type[modal.Queue]) -> None:
    (other,) = [one for one in KINDS if one is not kind]
    with other.ephemeral() as wrong, pytest.raises(NotFoundError, match=wrong.object_id):
        kind.from_id(wrong.object_id).hydrate()


@pytest.mark.parametrize("environment", ["x" * 65, "a/b", "a b"])
def test_an_environment_that_cannot_be_is_refused(cloud: Running, environment: str) -> None:
    for kind in KINDS:
        with pytest.raises(InvalidError, match="Invalid name"):
            kind.objects.create("name", environment_name=environment)


def test_a_waiting_reader_learns_that_its_queue_is_gone(cloud: Running) -> None:
    name = f"gone-{uuid.uuid4().hex}"
    shared = modal.Queue.from_name(name, create_if_missing=True)
    shared.len()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: shared.get(timeout=COMMAND_TIMEOUT_S))
        time.sleep(0.5)
        modal.Queue.objects.delete(name)
        with pytest.raises(NotFoundError):
            waiting.result(SOON_S)
    with pytest.raises(NotFoundError):
        shared.put(1)


class Rpcs:
    """The two servicers on a database of their own, with a clock that is moved."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.database = Database(Path(":memory:"))
        objects = Objects(self.database)
        ephemeral = Ephemeral(self.database, now=self.clock)
        self.dicts = DictRpcs(self.database, objects, ephemeral, Dicts(self.database, objects, now=self.clock))
        self.queues = QueueRpcs(self.database, objects, ephemeral, Queues(self.database, objects, now=self.clock))

    async def tidy(self) -> None:
        await self.dicts.tidy()
        await self.queues.tidy()

    def rows(self) -> int:
        """How much of anything is kept."""
        tables = ("objects", "ephemeral_objects", "dict_entries", "dict_values", "queue_partitions", "queue_items")
        return sum(len(self.database.all(f"SELECT * FROM {table}")) for table in tables)


@pytest.fixture
def rpcs() -> Iterator[Rpcs]:
    rpcs = Rpcs()
    yield rpcs
    rpcs.database.close()


async def test_ephemeral_objects_live_as_long_as_their_owner_is_heard(rpcs: Rpcs) -> None:
    made = await rpcs.dicts.DictGetOrCreate(api_pb2.DictGetOrCreateRequest(object_creation_type=EPHEMERAL), None)
    entry = api_pb2.DictEntry(key=b"k", value=b"v")
    await rpcs.dicts.DictUpdate(api_pb2.DictUpdateRequest(dict_id=made.dict_id, updates=[entry]), None)
    queue = await rpcs.queues.QueueGetOrCreate(api_pb2.QueueGetOrCreateRequest(object_creation_type=EPHEMERAL), None)
    await rpcs.queues.QueuePut(api_pb2.QueuePutRequest(queue_id=queue.queue_id, values=[b"v"]), None)
    kept = rpcs.rows()
    for _ in range(3):
        rpcs.clock.at += SILENCE_S - 1
        await rpcs.dicts.DictHeartbeat(api_pb2.DictHeartbeatRequest(dict_id=made.dict_id), None)
        await rpcs.queues.QueueHeartbeat(api_pb2.QueueHeartbeatRequest(queue_id=queue.queue_id), None)
        await rpcs.tidy()
        assert rpcs.rows() == kept
    rpcs.clock.at += SILENCE_S + 1
    await rpcs.tidy()
    assert rpcs.rows() == 0
    with pytest.raises(CloudError, match="not found"):
        await rpcs.dicts.DictHeartbeat(api_pb2.DictHeartbeatRequest(dict_id=made.dict_id), None)


async def test_named_objects_stay_and_what_they_hold_expires(rpcs: Rpcs) -> None:
    create = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
    entries = [api_pb2.DictEntry(key=b"%d" % number, value=b"v") for number in range(1500)]
    made = await rpcs.dicts.DictGetOrCreate(
        api_pb2.DictGetOrCreateRequest(deployment_name="d", object_creation_type=create, data=entries), None
    )
    queue = await rpcs.queues.QueueGetOrCreate(
        api_pb2.QueueGetOrCreateRequest(deployment_name="q", object_creation_type=create), None
    )
    for number in range(150):
        request = api_pb2.QueuePutRequest(queue_id=queue.queue_id, partition_key=b"%d" % number, values=[b"v"])
        await rpcs.queues.QueuePut(request, None)
    assert rpcs.rows() == 2 + 2 * 1500 + 2 * 150
    rpcs.clock.at += 30 * 24 * 3600
    await rpcs.tidy()
    assert rpcs.rows() == 2
    assert (await rpcs.dicts.DictLen(api_pb2.DictLenRequest(dict_id=made.dict_id), None)).len == 0


@pytest.mark.parametrize("name", ["", "x" * 65, "a/b", "../x", "a\0b"])
async def test_names_that_the_sdk_would_not_send_are_refused(rpcs: Rpcs, name: str) -> None:
    for creation_type in (api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED, api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING):
        request = api_pb2.DictGetOrCreateRequest(deployment_name=name, object_creation_type=creation_type)
        with pytest.raises(CloudError, match="Invalid name"):
            await rpcs.dicts.DictGetOrCreate(request, None)
    assert rpcs.rows() == 0


async def test_a_creation_type_that_means_nothing_here_is_refused(rpcs: Rpcs) -> None:
    for creation_type in (
        api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS,
        api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
    ):
        request = api_pb2.QueueGetOrCreateRequest(deployment_name="q", object_creation_type=creation_type)
        with pytest.raises(CloudError, match="creation type"):
            await rpcs.queues.QueueGetOrCreate(request, None)
    assert rpcs.rows() == 0


async def test_a_dict_whose_first_entries_are_refused_is_not_made(rpcs: Rpcs) -> None:
    """Whatever is made in one call is made whole, or a kill could leave something that nobody ever drops."""
    for creation_type in (EPHEMERAL, api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING):
        request = api_pb2.DictGetOrCreateRequest(
            deployment_name="d",
            object_creation_type=creation_type,
            data=[api_pb2.DictEntry(key=b"good"), api_pb2.DictEntry(key=bytes(MAX_KEY_BYTES + 1))],
        )
        with pytest.raises(CloudError, match="key of a dict"):
            await rpcs.dicts.DictGetOrCreate(request, None)
    assert rpcs.rows() == 0

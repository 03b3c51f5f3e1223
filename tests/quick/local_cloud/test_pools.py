"""What a pool does with the inputs of containers that end, are late or go away. Its containers have no program."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.functions import pool
from workbench.local_cloud.functions.container import Container
from workbench.local_cloud.functions.function_calls import Calls, Input
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.store.database import Database

_RESULT = api_pb2.GenericResult
DEADLINE_S = 20


class StandIn:
    """A container whose program ends only when it is killed; it notes what it is sent."""

    def __init__(self) -> None:
        self.exited = asyncio.Event()
        self.exit_code: int | None = None
        self.sent: list[str] = []

    async def start(self) -> None:
        """Do nothing: there is no program."""

    def interrupt(self) -> None:
        self.sent.append("interrupt")

    def kill(self) -> None:
        self.sent.append("kill")
        self.exited.set()

    async def aclose(self) -> None:
        self.exited.set()


class World:
    """The pools of one app, with the containers that they have started."""

    def __init__(self) -> None:
        self.database = Database(Path(":memory:"))
        self.apps = Apps(self.database)
        self.app_id = self.apps.get_or_create("pools", environment="", create=True).app_id
        self.clocks = Clocks(lambda function_id: self.apps.app_of(function_id).app_id)
        self.calls = Calls()
        self.started: list[StandIn] = []
        self.pools = Pools(self.apps, self.clocks, make_container=self._make)

    async def _make(self, task_id: str, function_id: str, definition_id: str) -> Container:
        self.started.append(StandIn())
        return cast("Container", self.started[-1])

    def function(self, **settings: int) -> str:
        definition = api_pb2.Function(function_name="f", **settings)
        function_id = self.apps.define_function(self.app_id, "", definition)
        self.apps.definitions_changed()
        return function_id

    def submit(self, function_id: str, parent_input_id: str = "") -> Input:
        item = self.calls.create(function_id, parent_input_id=parent_input_id).add(0, api_pb2.FunctionInput(args=b"x"))
        self.pools.submit(item)
        return item

    async def running(self, function_id: str) -> tuple[Input, str]:
        """An input that a container works on, and the container's task id."""
        item = self.submit(function_id)
        await until(lambda: bool(self.started) and self.pools.tasks()[-1].container is not None)
        task_id = self.pools.tasks()[-1].task_id
        assert await self.pools.take_inputs(task_id) == [item]
        return item, task_id


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.pools.aclose()
    world.database.close()


async def test_a_drained_container_is_asked_to_end_only_after_its_inputs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_DRAIN_S", 0.01)
    monkeypatch.setattr(pool, "_INTERRUPTED_S", 0.01)
    item, task_id = await world.running(world.function())
    container = world.started[0]
    world.pools.drain_task(task_id)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(container.exited.wait(), 0.1)
    assert container.sent == []
    done = _RESULT(status=_RESULT.GENERIC_STATUS_SUCCESS)
    world.pools.put_output(task_id, api_pb2.FunctionPutOutputsItem(input_id=item.input_id, result=done))
    await asyncio.wait_for(container.exited.wait(), DEADLINE_S)
    assert container.sent == ["interrupt", "kill"]


async def test_inputs_of_a_stopped_container_wait_for_another_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_DRAIN_S", 0.01)
    item, task_id = await world.running(world.function())
    await world.pools.stop_task(task_id)
    assert world.started[0].sent[0] == "interrupt"
    await until(lambda: len(world.started) == 2 and world.pools.tasks()[-1].container is not None)
    assert await world.pools.take_inputs(world.pools.tasks()[-1].task_id) == [item]


async def test_a_batch_that_fills_loses_nothing_when_its_container_asks_again(world: World) -> None:
    function_id = world.function(batch_max_size=4, timeout_secs=60)
    item = world.submit(function_id)
    await until(lambda: bool(world.started))
    task_id = world.pools.tasks()[0].task_id
    asking = asyncio.ensure_future(world.pools.take_inputs(task_id, batch_size=4, linger_s=300))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert world.pools.backlog(function_id) == 1
    world.clocks.of(world.app_id).advance(299)
    assert item.output is None, "its time limit starts when a container gets it"
    world.clocks.of(world.app_id).advance(1)
    async with asyncio.timeout(DEADLINE_S):
        assert await world.pools.take_inputs(task_id, batch_size=4, linger_s=300) == [item]


async def test_a_container_that_is_not_ready_in_time_is_killed_and_told(world: World) -> None:
    item = world.submit(world.function(startup_timeout_secs=40))
    await until(lambda: bool(world.started))
    await asyncio.sleep(0)
    world.clocks.of(world.app_id).advance(41)
    await until(lambda: item.output is not None)
    assert item.output is not None
    assert item.output.result.status == _RESULT.GENERIC_STATUS_INIT_FAILURE
    assert "did not start within its startup timeout of 40 s" in item.output.result.exception
    assert world.started[0].sent == ["kill"]


async def test_a_container_that_fails_as_it_ends_fails_no_waiting_input(world: World) -> None:
    function_id = world.function(concurrency_limit=1)
    _, task_id = await world.running(function_id)
    waiting = world.submit(function_id)
    world.pools.failed_to_start(task_id, _RESULT(status=_RESULT.GENERIC_STATUS_FAILURE, exception="at the exit"))
    assert waiting.output is None
    assert world.pools.backlog(function_id) == 1


async def test_a_function_that_calls_itself_gets_the_containers_that_this_takes(world: World) -> None:
    """Each input waits for the one that it has made: a limit that counted them all would stop the last for ever."""
    function_id = world.function()
    made = ""
    for depth in range(1, 13):
        item = world.submit(function_id, made)
        await until(lambda depth=depth: len(world.started) == depth)
        await until(lambda: world.pools.tasks()[-1].container is not None)
        assert await world.pools.take_inputs(world.pools.tasks()[-1].task_id) == [item]
        made = item.input_id
    for _ in range(3):
        world.submit(function_id)
    await asyncio.sleep(0.05)
    assert len(world.started) == 12, "what calls nothing has no part in it"


async def test_functions_that_call_each_other_get_the_containers_that_this_takes(world: World) -> None:
    functions = [world.function(), world.function()]
    made = ""
    for depth in range(1, 23):
        item = world.submit(functions[depth % 2], made)
        await until(lambda depth=depth: len(world.started) == depth)
        await until(lambda: world.pools.tasks()[-1].container is not None)
        assert await world.pools.take_inputs(world.pools.tasks()[-1].task_id) == [item]
        made = item.input_id


async def test_variants_get_new_containers_when_their_app_is_deployed_again(world: World) -> None:
    """Their old ones may go on for as long as their inputs take."""
    base = world.function(concurrency_limit=1)
    variant = world.apps.bind(base, b"params", api_pb2.FunctionOptions())
    await world.running(variant)
    waits = world.submit(variant)
    world.apps.define_function(world.app_id, base, api_pb2.Function(function_name="f", concurrency_limit=1))
    world.apps.set_layout(
        world.app_id, state=api_pb2.APP_STATE_EPHEMERAL, function_ids={"f": base}, class_ids={}, tags={}, name=None
    )
    world.pools.redeployed(world.app_id)
    await until(lambda: len(world.started) == 2 and world.pools.tasks()[-1].container is not None)
    assert await world.pools.take_inputs(world.pools.tasks()[-1].task_id) == [waits]


async def test_a_container_that_does_not_start_fails_nothing_that_another_one_serves(world: World) -> None:
    function_id = world.function(startup_timeout_secs=5)
    await world.running(function_id)
    waits = world.submit(function_id)
    for count in (2, 3, 4):
        world.clocks.of(world.app_id).advance(4)  # beyond the pause after the one before
        await until(lambda count=count: len(world.started) == count)
        await asyncio.sleep(0.02)
        world.clocks.of(world.app_id).advance(5)
        await until(lambda count=count: world.started[count - 1].exited.is_set())
    assert waits.output is None


async def test_a_container_that_dies_as_it_starts_is_not_replaced_without_a_pause(world: World) -> None:
    """While another one serves, nothing fails; a loop without a pause would take a processor for as long."""
    function_id = world.function()
    await world.running(function_id)
    waits = [world.submit(function_id) for _ in range(2)]
    await until(lambda: len(world.started) == 3)
    for count in (1, 2):
        world.started[count].kill()
    await until(lambda: len(world.pools.tasks()) == 1)
    for task in world.pools.tasks():
        world.pools.failed_to_start(task.task_id, _RESULT(status=_RESULT.GENERIC_STATUS_INIT_FAILURE))
    await asyncio.sleep(0.05)
    assert [item.output for item in waits] == [None, None]
    assert len(world.started) == 3
    world.clocks.of(world.app_id).advance(2)
    await until(lambda: len(world.started) > 3)

"""How many containers a function gets: by what waits, what runs and what it asks for."""

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.functions import scaling
from workbench.local_cloud.functions.function_calls import Call, Input
from workbench.local_cloud.functions.task import Task


def live(*busy: int, capacity: int = 1) -> list[Task]:
    """Containers with so many inputs each."""
    call = Call("fu-1", 0)
    tasks = []
    for number, inputs in enumerate(busy):
        task = Task(f"ta-{number}", "fu-1", "de-1", capacity, 0, 0)
        task.inputs = {str(one): Input(call, one, api_pb2.FunctionInput()) for one in range(inputs)}
        tasks.append(task)
    return tasks


@pytest.mark.parametrize(
    ("busy", "backlog", "settings", "wanted"),
    [
        ((), 0, {}, 0),
        ((), 3, {}, 3),
        ((1, 0), 1, {}, 0),  # one has room
        ((1, 0), 3, {}, 2),
        ((), 100, {}, scaling.MAX_CONTAINERS),
        ((), 100, {"max_containers": 2}, 2),
        ((), 0, {"min_containers": 20}, 20),
        ((), 0, {"min_containers": 100}, scaling.MAX_SHARED_CONTAINERS),
        ((1, 1), 5, {"max_containers": 2}, 0),
        ((), 0, {"min_containers": 3}, 3),
        ((0,), 0, {"min_containers": 3}, 2),
        ((), 0, {"buffer_containers": 2}, 0),  # nothing is asked of it: no spare ones
        ((1,), 0, {"buffer_containers": 2}, 2),
        ((1, 0), 0, {"buffer_containers": 2}, 1),
        ((), 2, {"buffer_containers": 2}, 4),
    ],
)
def test_containers_are_started_for_what_waits_and_what_is_asked_for(
    busy: tuple[int, ...], backlog: int, settings: dict[str, int], wanted: int
) -> None:
    scale = api_pb2.AutoscalerSettings(**settings)
    assert scaling.missing(api_pb2.Function(), scale, live(*busy), backlog=backlog) == wanted


def test_concurrent_and_batched_inputs_count_together() -> None:
    function = api_pb2.Function(max_concurrent_inputs=4, batch_max_size=5)
    assert scaling.capacity(function) == 20
    assert scaling.missing(function, api_pb2.AutoscalerSettings(), live(19, capacity=20), backlog=22) == 2


@pytest.mark.parametrize(
    ("function", "backlog", "wanted"),
    [
        (api_pb2.Function(max_concurrent_inputs=40), 500, 13),
        (api_pb2.Function(max_concurrent_inputs=100, target_concurrent_inputs=40), 500, 13),
        (api_pb2.Function(max_concurrent_inputs=2), 500, scaling.MAX_SHARED_CONTAINERS),
        (api_pb2.Function(max_concurrent_inputs=1), 500, scaling.MAX_CONTAINERS),
        (api_pb2.Function(batch_max_size=10), 500, scaling.MAX_CONTAINERS),  # a batch computes
    ],
)
def test_inputs_that_share_containers_get_as_many_as_they_need(
    function: api_pb2.Function, backlog: int, wanted: int
) -> None:
    """Each of them mostly waits, as a response that streams does: what counts is that none is left waiting."""
    assert scaling.missing(function, api_pb2.AutoscalerSettings(), [], backlog=backlog) == wanted


def test_a_container_takes_more_than_its_target_while_another_one_starts() -> None:
    function = api_pb2.Function(max_concurrent_inputs=100, target_concurrent_inputs=10)
    assert scaling.capacity(function) == 100
    assert scaling.missing(function, api_pb2.AutoscalerSettings(), live(9, capacity=100), backlog=1) == 0
    assert scaling.missing(function, api_pb2.AutoscalerSettings(), live(10, capacity=100), backlog=1) == 1
    assert scaling.missing(function, api_pb2.AutoscalerSettings(), live(25, capacity=100), backlog=11) == 2
    assert scaling.missing(function, api_pb2.AutoscalerSettings(), live(25, 5, capacity=100), backlog=1) == 0
    assert scaling.missing(function, api_pb2.AutoscalerSettings(), live(25, capacity=100), backlog=0) == 0


@pytest.mark.parametrize(
    ("blocked", "settings", "wanted"),
    [(0, {}, 0), (1, {}, 1), (8, {}, 3), (3, {"max_containers": 8}, 0)],
)
def test_containers_that_wait_for_what_waits_do_not_count(blocked: int, settings: dict[str, int], wanted: int) -> None:
    scale = api_pb2.AutoscalerSettings(**settings)
    full = live(*[1] * scaling.MAX_CONTAINERS)
    assert scaling.missing(api_pb2.Function(), scale, full, backlog=3, blocked=blocked) == wanted
    many = live(*[1] * scaling.MAX_SHARED_CONTAINERS)
    assert scaling.missing(api_pb2.Function(), scale, many, backlog=3, blocked=31) == 0


def test_what_is_told_at_run_time_wins() -> None:
    function = api_pb2.Function(concurrency_limit=7, warm_pool_size=1, task_idle_timeout_secs=30)
    found = scaling.settings(function, api_pb2.AutoscalerSettings(max_containers=3))
    assert (found.max_containers, found.min_containers, found.scaledown_window) == (3, 1, 30)

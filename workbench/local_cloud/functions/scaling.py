"""How many containers a function needs, from its settings, its containers and its waiting inputs."""

from collections.abc import Sequence

from modal_proto import api_pb2

from workbench.local_cloud.functions.task import Task

MAX_CONTAINERS = 8  # of a function that sets no limit itself and whose containers work on one input at a time
MAX_SHARED_CONTAINERS = 32  # of one whose containers work on several or wait for others, and of one that asks for many


def settings(
    function: api_pb2.Function, override: api_pb2.AutoscalerSettings | None = None
) -> api_pb2.AutoscalerSettings:
    """Return a function's scaling settings, with those of `override`.

    Where `autoscaler_settings` has none, the definition's older field of the same meaning is used.
    """
    found = api_pb2.AutoscalerSettings()
    found.CopyFrom(function.autoscaler_settings)
    found.max_containers = found.max_containers or function.concurrency_limit
    found.min_containers = found.min_containers or function.warm_pool_size
    found.scaledown_window = found.scaledown_window or function.task_idle_timeout_secs
    if override is not None:
        found.MergeFrom(override)
    return found


def capacity(function: api_pb2.Function) -> int:
    """Return how many inputs a container of this function works on at once."""
    return max(function.max_concurrent_inputs, function.target_concurrent_inputs, 1) * max(function.batch_max_size, 1)


def aim(function: api_pb2.Function) -> int:
    """Return how many inputs a container has when another one is started: of those that it can take, the target."""
    target = function.target_concurrent_inputs or function.max_concurrent_inputs
    return max(target, 1) * max(function.batch_max_size, 1)


def missing(
    function: api_pb2.Function,
    scale: api_pb2.AutoscalerSettings,
    live: Sequence[Task],
    *,
    backlog: int,
    blocked: int = 0,
) -> int:
    """Return how many containers to start besides the `live` ones; `backlog` is the number of waiting inputs.

    `blocked` of the live ones wait for results of waiting inputs: they do not count where no limit is set.
    """
    each = aim(function)
    short = backlog - sum(max(0, each - len(task.inputs)) for task in live)
    busy = short > 0 or any(task.inputs for task in live)
    spare = scale.buffer_containers if busy else 0
    idle = sum(1 for task in live if not task.inputs)
    for_inputs = -(-short // each) + spare if short > 0 else spare - idle
    wanted = max(for_inputs, scale.min_containers - len(live), 0)
    most = MAX_SHARED_CONTAINERS if _shares_containers(function) else MAX_CONTAINERS
    most = min(max(most, scale.min_containers) + blocked, MAX_SHARED_CONTAINERS)
    return max(0, min(wanted, (scale.max_containers or most) - len(live)))


def _shares_containers(function: api_pb2.Function) -> bool:
    return max(function.max_concurrent_inputs, function.target_concurrent_inputs) > 1


def is_single_use(function: api_pb2.Function) -> bool:
    """Whether a container of this function takes one input only."""
    return function.single_use_containers or function.max_inputs == 1

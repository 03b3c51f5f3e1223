"""Runs functions: decides when a function needs another container, hands inputs out, and ends what is idle or stale.

Why one pool for a function and not for an app: limits, idle times and definitions are a function's own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from modal_proto import api_pb2

from workbench.local_cloud.apps import Apps
from workbench.local_cloud.functions.calls import Call, Calls, Input
from workbench.local_cloud.functions.container import Container
from workbench.local_cloud.ids import new_id
from workbench.local_cloud.rpc.failures import not_found

_log = structlog.get_logger(__name__)

GET_INPUTS_HOLD_S = 50.0
HEARTBEAT_HOLD_S = 14.5
MAX_CONTAINERS = 8  # of one function on one machine, where the function sets no limit itself
DEFAULT_IDLE_S = 60.0
DEFAULT_TIMEOUT_S = 300.0
_CANCEL_GRACE_S = 5.0
_DRAIN_S = 30.0  # what Modal gives a container that is told to stop
_START_FAILURES_ALLOWED = 2

ContainerFactory = Callable[[str, str, str], Awaitable[Container]]


@dataclass(eq=False)
class Task:
    """A container in the pool with what it is working on."""

    task_id: str
    function_id: str
    definition_id: str
    capacity: int
    enqueued_at: float = field(default_factory=time.time)
    started_at: float = 0
    container: Container | None = None
    inputs: dict[str, Input] = field(default_factory=dict)
    cancellations: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    draining: bool = False
    hello: bool = False
    idle_since: float = field(default_factory=time.monotonic)


class Pools:
    """Every function's containers and waiting inputs."""

    def __init__(self, apps: Apps, calls: Calls, *, make_container: ContainerFactory) -> None:
        self._apps = apps
        self._calls = calls
        self._make_container = make_container
        self._tasks: dict[str, Task] = {}
        self._waiting: dict[str, deque[Input]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._failures: dict[str, int] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False
        self._spawn(self._tend())

    # -- what callers do --------------------------------------------------------------------------------------------

    def submit(self, item: Input) -> None:
        """Queue an input and start a container for it when none has room."""
        function_id = item.call.function_id
        self._waiting.setdefault(function_id, deque()).append(item)
        self._notify(function_id)
        self._scale(function_id)

    def cancel(self, call: Call) -> None:
        """Cancel a call: what waits ends at once, what runs is told by its container's heartbeat."""
        for item in call.inputs.values():
            if item.output is not None or item.cancelled:
                continue
            item.cancelled = True
            task = self._tasks.get(item.task_id)
            if task is None:
                waiting = self._waiting.get(call.function_id)
                if waiting is not None and item in waiting:
                    waiting.remove(item)
                item.finish(_result(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, "The input was cancelled."))
            else:
                task.cancellations.append(item.input_id)
                _wake(task)
                self._spawn(self._enforce_cancel(item))

    def running_tasks(self, app_id: str) -> int:
        """How many containers an app has."""
        return sum(1 for task in self._tasks.values() if self._apps.app_of(task.function_id).app_id == app_id)

    def tasks(self, app_id: str = "") -> list[Task]:
        """The containers of an app, or all of them."""
        return [t for t in self._tasks.values() if not app_id or self._apps.app_of(t.function_id).app_id == app_id]

    def task(self, task_id: str | None) -> Task:
        """One container; raises RpcFailure NOT_FOUND."""
        task = self._tasks.get(task_id or "")
        if task is None:
            raise not_found(f"Container {task_id} not found.")
        return task

    def redeployed(self, app_id: str) -> None:
        """Drain containers of older definitions and keep the minimum of the new ones running."""
        for task in self.tasks(app_id):
            if task.definition_id != self._apps.definition_id(task.function_id):
                self._drain(task)
        for function_id in self._apps.get(app_id).function_ids.values():
            self._failures.pop(function_id, None)
            self._scale(function_id)

    async def stop_app(self, app_id: str) -> None:
        """End every container of an app."""
        await asyncio.gather(*(self._end(task) for task in self.tasks(app_id)))

    def drain_task(self, task_id: str) -> None:
        """Give one container no further inputs and end it once it has finished those that it has."""
        self._drain(self.task(task_id))

    async def stop_task(self, task_id: str) -> None:
        """End one container at once; its inputs fail."""
        await self._end(self.task(task_id))

    async def aclose(self) -> None:
        """End every container. Idempotent."""
        self._closing = True
        await asyncio.gather(*(self._end(task) for task in list(self._tasks.values())))
        for job in list(self._background):
            job.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=5)

    # -- what containers do -----------------------------------------------------------------------------------------

    async def take_input(self, task_id: str | None) -> Input | None:
        """Wait for an input for this container; None after the hold time, for an idle container or a draining one."""
        task = self.task(task_id)
        deadline = time.monotonic() + GET_INPUTS_HOLD_S
        while not task.draining:
            waiting = self._waiting.get(task.function_id)
            if waiting and len(task.inputs) < task.capacity:
                item = waiting.popleft()
                item.task_id, item.started_at = task.task_id, time.time()
                task.inputs[item.input_id] = item
                self._spawn(self._enforce_timeout(item))
                return item
            if (left := deadline - time.monotonic()) <= 0:
                return None
            news = self._news.setdefault(task.function_id, asyncio.Event())
            await _first(news.wait(), task.changed.wait(), timeout_s=left)
        return None

    async def next_cancellations(self, task_id: str | None) -> list[str]:
        """Wait for inputs that this container must cancel; empty after the heartbeat's hold time."""
        task = self.task(task_id)
        task.hello = True
        deadline = time.monotonic() + HEARTBEAT_HOLD_S
        while not task.cancellations and (left := deadline - time.monotonic()) > 0:
            await _first(task.changed.wait(), timeout_s=left)
        cancelled, task.cancellations = task.cancellations, []
        return cancelled

    def put_output(self, task_id: str | None, output: api_pb2.FunctionPutOutputsItem) -> None:
        """Take a container's output for one of its inputs."""
        task = self.task(task_id)
        item = task.inputs.pop(output.input_id, None)
        if item is None:
            return
        item.call.finish(item, output)
        task.idle_since = time.monotonic()
        _wake(task)
        self._notify(task.function_id)

    def said_hello(self, task_id: str | None) -> None:
        """Note that the container's client is up."""
        task = self.task(task_id)
        task.hello, task.started_at = True, time.time()
        self._failures.pop(task.function_id, None)

    def failed_to_start(self, task_id: str | None, result: api_pb2.GenericResult) -> None:
        """A container reports that it cannot serve: what waits fails with its reason."""
        task = self.task(task_id)
        self._failures[task.function_id] = _START_FAILURES_ALLOWED
        self._fail_waiting(task.function_id, result)

    # -- scaling ----------------------------------------------------------------------------------------------------

    def _scale(self, function_id: str) -> None:
        if self._closing:
            return
        function = self._apps.function(function_id)
        live = [t for t in self._tasks.values() if t.function_id == function_id and not t.draining]
        definition_id = self._apps.definition_id(function_id)
        live = [t for t in live if t.definition_id == definition_id]
        room = sum(t.capacity - len(t.inputs) for t in live)
        settings = function.autoscaler_settings
        limit = settings.max_containers or function.concurrency_limit or MAX_CONTAINERS
        floor = settings.min_containers or function.warm_pool_size
        capacity = max(function.max_concurrent_inputs, function.target_concurrent_inputs, 1)
        missing = len(self._waiting.get(function_id, ())) - room
        wanted = max(-(-missing // capacity), floor - len(live)) if missing > 0 or floor > len(live) else 0
        for _ in range(min(wanted, limit - len(live))):
            task = Task(new_id("ta"), function_id, definition_id, capacity)
            self._tasks[task.task_id] = task
            self._spawn(self._run(task))

    async def _run(self, task: Task) -> None:
        """One container from start to end; whatever ends it, its inputs get a result and its mounts are released."""
        try:
            task.container = await self._make_container(task.task_id, task.function_id, task.definition_id)
            await task.container.start()
            _log.info("container.started", task_id=task.task_id, function_id=task.function_id)
            await task.container.exited.wait()
        except Exception as error:  # noqa: BLE001  # the boundary: a container that cannot start fails its inputs
            _log.error("container.failed", task_id=task.task_id, exc_info=error)
            self._failures[task.function_id] = _START_FAILURES_ALLOWED
        finally:
            self._tasks.pop(task.task_id, None)
            task.draining = True
            _wake(task)
            if task.container is not None:
                await task.container.aclose()
                _log.info("container.ended", task_id=task.task_id, exit_code=task.container.exit_code)
            for item in list(task.inputs.values()):
                item.finish(_result(api_pb2.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE, "The container died."))
            if not task.hello:
                self._failures[task.function_id] = self._failures.get(task.function_id, 0) + 1
            if self._failures.get(task.function_id, 0) >= _START_FAILURES_ALLOWED:
                reason = "The function's container does not start; see `modal app logs`."
                self._fail_waiting(task.function_id, _result(api_pb2.GenericResult.GENERIC_STATUS_INIT_FAILURE, reason))
            else:
                self._scale(task.function_id)

    def _fail_waiting(self, function_id: str, result: api_pb2.GenericResult) -> None:
        for item in self._waiting.pop(function_id, ()):
            item.finish(result)
        self._failures.pop(function_id, None)

    def _drain(self, task: Task) -> None:
        if not task.draining:
            task.draining = True
            _wake(task)
            self._spawn(self._end_after(task, grace_s=_DRAIN_S))

    async def _end_after(self, task: Task, *, grace_s: float) -> None:
        if task.container is not None:
            try:
                await asyncio.wait_for(task.container.exited.wait(), grace_s)
            except TimeoutError:
                task.container.kill()

    async def _end(self, task: Task) -> None:
        task.draining = True
        _wake(task)
        deadline = time.monotonic() + 10
        while task.task_id in self._tasks and time.monotonic() < deadline:
            if task.container is not None:
                task.container.kill()
                await _first(task.container.exited.wait(), timeout_s=1)
            await asyncio.sleep(0.01)

    async def _tend(self) -> None:
        """End containers that have been idle for longer than their function allows."""
        while True:
            await asyncio.sleep(1)
            for task in list(self._tasks.values()):
                function = self._apps.function(task.function_id)
                idle_s = function.autoscaler_settings.scaledown_window or function.task_idle_timeout_secs
                floor = function.autoscaler_settings.min_containers or function.warm_pool_size
                peers = sum(1 for t in self._tasks.values() if t.function_id == task.function_id and not t.draining)
                idle = (
                    task.hello and not task.inputs and time.monotonic() - task.idle_since > (idle_s or DEFAULT_IDLE_S)
                )
                if idle and peers > floor:
                    self._drain(task)

    async def _enforce_timeout(self, item: Input) -> None:
        timeout_s = self._apps.function(item.call.function_id).timeout_secs or DEFAULT_TIMEOUT_S
        deadline = time.monotonic() + timeout_s
        while item.output is None and time.monotonic() < deadline:
            await item.call.wait_for_output(after=len(item.call.outputs), timeout_s=deadline - time.monotonic())
        if item.output is None:
            task = self._tasks.get(item.task_id)
            reason = f"Task's current input hit its timeout of {timeout_s:g}s"
            item.finish(_result(api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT, reason))
            if task is not None:
                task.cancellations.append(item.input_id)
                _wake(task)
                await asyncio.sleep(_CANCEL_GRACE_S)
                if item.input_id in task.inputs and task.container is not None:
                    task.container.kill()

    async def _enforce_cancel(self, item: Input) -> None:
        await item.call.wait_for_output(after=len(item.call.outputs), timeout_s=_DRAIN_S)
        if item.output is None:
            item.finish(_result(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, "The input was cancelled."))

    def _notify(self, function_id: str) -> None:
        event = self._news.pop(function_id, None)
        if event is not None:
            event.set()

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        job: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]  # coroutines only
        self._background.add(job)
        job.add_done_callback(self._background.discard)


def _wake(task: Task) -> None:
    task.changed.set()
    task.changed = asyncio.Event()


async def _first(*waits: Awaitable[object], timeout_s: float) -> None:
    """Return when one of the waits is over or the time is up; the others are cancelled."""
    jobs = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(jobs, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for job in jobs:
            job.cancel()


def _result(status: "api_pb2.GenericResult.GenericStatus.ValueType", reason: str) -> api_pb2.GenericResult:
    return api_pb2.GenericResult(status=status, exception=reason)

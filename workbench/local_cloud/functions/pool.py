"""The pool of each function's containers: starts them when needed, gives them inputs, ends idle and outdated ones.

Pools are per function rather than per app, because limits, idle times and definitions are a function's own.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice

import structlog
from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.base.errors import not_found
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.functions import scaling
from workbench.local_cloud.functions.attempts import DEFAULT_TIMEOUT_S, Attempts, cancelled, made_here
from workbench.local_cloud.functions.container import Container
from workbench.local_cloud.functions.function_calls import Call, Input
from workbench.local_cloud.functions.task import Task

_log = structlog.get_logger(__name__)

GET_INPUTS_HOLD_S = 50.0  # the longest wait of a FunctionGetInputs
HEARTBEAT_HOLD_S = 14.5  # the longest wait of a ContainerHeartbeat
DEFAULT_IDLE_S = 60.0
_DRAIN_S = 30.0  # the time that Modal gives a container without inputs, or one that is preempted, to stop
_INTERRUPTED_S = 5.0  # a draining container that is interrupted after that time is killed so much later
_CHECK_S = 60.0
_END_S = 10.0
_START_FAILURES_ALLOWED = 2
_HEAD_INPUTS = 32  # of those that wait, whose callers are looked for
_DIED = "The container died."
_LONGEST_PAUSE_S = 60.0  # before the next container of a function whose containers end as they start
_REAL = Clock()  # never advanced: how long a process may take to end is not a promise of Modal's

ContainerFactory = Callable[[str, str, str], Awaitable[Container]]  # of (task id, function id, definition id)


class Pools:
    """Every function's containers and waiting inputs. For one event loop."""

    def __init__(self, apps: Apps, clocks: Clocks, *, make_container: ContainerFactory) -> None:
        self._apps = apps
        self._clocks = clocks
        self._make_container = make_container
        self._overrides: dict[str, api_pb2.AutoscalerSettings] = {}
        self._tasks: dict[str, Task] = {}
        self._waiting: dict[str, deque[Input]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._failures: dict[str, int] = {}
        self._crashes: dict[str, int] = {}  # by function: consecutive containers that ended before they were ready
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False
        self._attempts = Attempts(apps, clocks, submit=self.submit, spawn=self._spawn)
        self._spawn(self._end_idle())

    # -- what callers do --------------------------------------------------------------------------------------------

    def submit(self, item: Input) -> None:
        """Queue an input, and start a container for it if no running one has room."""
        function_id = item.call.function_id
        item.queued_at = self._clocks.of_function(function_id).monotonic()
        self._waiting.setdefault(function_id, deque()).append(item)
        self._notify(function_id)
        self._scale(function_id)

    def cancel(self, call: Call) -> None:
        """Cancel a call: inputs that wait end at once, containers of the others are told in their heartbeat."""
        for item in call.inputs.values():
            if item.output is not None or item.cancelled:
                continue
            item.cancelled = True
            task = self._tasks.get(item.task_id)
            if task is None:
                waiting = self._waiting.get(call.function_id)
                if waiting is not None and item in waiting:
                    waiting.remove(item)
                item.finish(cancelled())
            else:
                self._attempts.cancel(item, task)

    def backlog(self, function_id: str) -> int:
        """Return how many inputs of a function wait for a container."""
        return len(self._waiting.get(function_id, ()))

    def settings(self, function_id: str) -> api_pb2.AutoscalerSettings:
        """Return how a function scales: its definition's settings with those of `override`."""
        return scaling.settings(self._apps.function(function_id), self._overrides.get(function_id))

    def override(self, function_id: str, settings: api_pb2.AutoscalerSettings) -> api_pb2.AutoscalerSettings:
        """Change a function's scaling until it is deployed again; returns all its settings then."""
        self._apps.function(function_id)
        self._overrides.setdefault(function_id, api_pb2.AutoscalerSettings()).MergeFrom(settings)
        self._scale(function_id)
        return self.settings(function_id)

    def running_tasks(self, app_id: str) -> int:
        """Return how many containers an app has."""
        return len(self.tasks(app_id))

    def tasks(self, app_id: str = "") -> list[Task]:
        """Return the containers of an app, or those of all apps."""
        return [t for t in self._tasks.values() if not app_id or self._apps.app_of(t.function_id).app_id == app_id]

    def task(self, task_id: str | None) -> Task:
        """Return a container by its task id; raises CloudError NOT_FOUND."""
        task = self._tasks.get(task_id or "")
        if task is None:
            raise not_found(f"Container {task_id} not found.")
        return task

    def redeployed(self, app_id: str) -> None:
        """Drain an app's containers of older definitions, and start the minimum of new ones."""
        outdated = [t for t in self.tasks(app_id) if t.definition_id != self._apps.definition_id(t.function_id)]
        for task in outdated:
            self._drain(task)
        for function_id in {task.function_id for task in outdated}:
            self._scale(function_id)
        for function_id in self._apps.get(app_id).function_ids.values():
            self._failures.pop(function_id, None)
            self._crashes.pop(function_id, None)
            for variant_id in (function_id, *self._apps.variants(function_id)):
                self._overrides.pop(variant_id, None)
                self._scale(variant_id)

    async def stop_app(self, app_id: str) -> None:
        """Kill every container of an app and wait until they have ended."""
        await asyncio.gather(*(self._end(task) for task in self.tasks(app_id)))

    def drain_task(self, task_id: str) -> None:
        """Give a container no further inputs; when it has finished those it has, it gets 30 s to end."""
        task = self.task(task_id)
        self._drain(task)
        self._scale(task.function_id)

    async def stop_task(self, task_id: str) -> None:
        """Preempt one container and wait until it has ended; it is killed after 30 s."""
        task = self.task(task_id)
        self.preempt(task_id)
        deadline = _REAL.monotonic() + _DRAIN_S
        while task.task_id in self._tasks and (left := deadline - _REAL.monotonic()) > 0:
            await _REAL.first(task.changed.wait(), timeout_s=left)
        await self._end(task)

    def preempt(self, task_id: str, *, grace_s: float | None = None) -> None:
        """Preempt a container: it gets SIGINT and 30 s to end, and its inputs start again in another container.

        With `grace_s` it gets so many seconds.
        """
        task = self.task(task_id)
        task.preempted = task.draining = True
        task.wake()
        if task.container is not None:
            task.container.interrupt()
            self._spawn(_end_within(task.container, _DRAIN_S if grace_s is None else grace_s))

    async def aclose(self) -> None:
        """Kill every container and wait until they have ended. Idempotent."""
        self._closing = self._attempts.closing = True
        await asyncio.gather(*(self._end(task) for task in list(self._tasks.values())))
        for job in list(self._background):
            job.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=5)

    async def run_for_build(self, item: Input, make_container: ContainerFactory) -> int | None:
        """Start a container that gets one input, and return its exit code when it has ended; None if it never ran.

        It ends after the input. When this is cancelled it is killed, and has ended when this raises.
        """
        function_id = item.call.function_id
        task = self._new_task(function_id, self._apps.definition_id(function_id))
        task.own = deque([item])
        running = asyncio.ensure_future(self._run(task, make_container))
        try:
            await asyncio.shield(running)
        finally:
            if not running.done():
                await asyncio.shield(self._end(task))
                running.cancel()
                await asyncio.wait([running])
        return task.container.exit_code if task.container is not None else None

    # -- what containers do -----------------------------------------------------------------------------------------

    async def take_inputs(self, task_id: str | None, *, batch_size: int = 0, linger_s: float = 0) -> list[Input]:
        """Wait for inputs for a container and return them: one, or a batch of at most `batch_size`.

        A batch that is not full is returned once its first input has waited for `linger_s` seconds. Until then its
        inputs stay in the queue, so that none is lost when the container goes away, or asks again. The list is empty
        when there is nothing to return within `GET_INPUTS_HOLD_S`, and for a draining container. Raises CloudError
        NOT_FOUND.
        """
        task = self.task(task_id)
        if not task.ready:
            task.ready = True
            task.wake()
            self._crashes.pop(task.function_id, None)
        clock = self._clocks.of_function(task.function_id)
        deadline = clock.monotonic() + GET_INPUTS_HOLD_S
        while not task.draining and not task.spent:
            now = clock.monotonic()
            left = deadline - now
            waiting = task.own if task.own is not None else self._waiting.get(task.function_id)
            if waiting and (room := min(task.capacity - len(task.inputs), max(batch_size, 1))) > 0:
                due = waiting[0].queued_at + linger_s
                if len(waiting) >= room or now >= due:
                    return self._hand_out(task, [waiting.popleft() for _ in range(min(room, len(waiting)))])
                left = min(left, due - now)
            if now >= deadline:
                break
            news = self._news.setdefault(task.function_id, asyncio.Event())
            await clock.first(news.wait(), task.changed.wait(), timeout_s=left)
        return []

    def _hand_out(self, task: Task, items: list[Input]) -> list[Input]:
        for item in items:
            self._attempts.begin(item, task)
        if scaling.is_single_use(self._apps.function(task.function_id)):
            task.spent = True
            self._scale(task.function_id)
        return items

    async def next_cancellations(self, task_id: str | None) -> list[str]:
        """Wait for inputs that a container must cancel, and return their ids; none after `HEARTBEAT_HOLD_S`."""
        task = self.task(task_id)
        task.hello = True
        clock = self._clocks.of_function(task.function_id)
        deadline = clock.monotonic() + HEARTBEAT_HOLD_S
        while not task.cancellations and (left := deadline - clock.monotonic()) > 0:
            await clock.first(task.changed.wait(), timeout_s=left)
        cancelled, task.cancellations = task.cancellations, []
        return cancelled

    async def settle_output(self, task_id: str | None, *inputs: str) -> None:
        """Return when everything that a container has printed is in the log, with unfinished lines of `inputs`."""
        container = self.task(task_id).container
        if container is not None:
            await container.settle_output(*inputs)

    def working_on(self, task_id: str, input_id: str) -> tuple[str, str]:
        """Return (call id, input id) for a row that a container has printed; each is empty if it cannot be told.

        `input_id` is the input that the output itself names. If it names none of the container's inputs, the row
        belongs to the only call or input that the container has.
        """
        task = self._tasks.get(task_id)
        inputs = task.inputs if task is not None else {}
        if input_id in inputs:
            return inputs[input_id].call.call_id, input_id
        calls = {item.call.call_id for item in inputs.values()}
        return calls.pop() if len(calls) == 1 else "", next(iter(inputs)) if len(inputs) == 1 else ""

    def put_output(self, task_id: str | None, output: api_pb2.FunctionPutOutputsItem) -> None:
        """Take a container's output for one of its inputs; does nothing for an input that it does not have."""
        task = self.task(task_id)
        item = task.inputs.get(output.input_id)
        if item is None:
            return
        worked = output.result.status == api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
        worked = worked and not item.call.data_in.begun  # a web request without a response was not served
        if _starts_again(task, item) and not worked:
            return  # it failed because its container is preempted: `_run` queues it again when that has ended
        del task.inputs[output.input_id]
        if not item.overdue:
            self._attempts.settle(item, output)
        task.idle_since = self._clocks.of_function(task.function_id).monotonic()
        task.wake()
        self._notify(task.function_id)
        if task.own is not None:
            self._drain(task)

    def _requeue(self, item: Input) -> None:
        """Put an input back at the head of the queue, without counting a retry."""
        item.task_id = ""
        item.end_attempt()
        self._waiting.setdefault(item.call.function_id, deque()).appendleft(item)
        self._notify(item.call.function_id)

    def said_hello(self, task_id: str | None) -> None:
        """Record that a container's client has started."""
        task = self.task(task_id)
        clock = self._clocks.of_function(task.function_id)
        task.hello, task.started_at = True, clock.time()
        task.idle_since = clock.monotonic()
        self._failures.pop(task.function_id, None)

    def failed_to_start(self, task_id: str | None, result: api_pb2.GenericResult) -> None:
        """Record that a container could not start: the function's waiting inputs fail with its result.

        One that has asked for inputs did start: only its end has failed, which concerns no input.
        """
        task = self.task(task_id)
        if task.ready:
            _log.warning("container.end_failed", task_id=task.task_id)
            return
        if task.own is not None:
            _fail(task.own, result)
            return
        if self._serves(task.function_id):
            _log.warning("container.start_failed", task_id=task.task_id)
            return
        self._failures[task.function_id] = _START_FAILURES_ALLOWED
        self._fail_waiting(task.function_id, result)

    # -- scaling ----------------------------------------------------------------------------------------------------

    def _scale(self, function_id: str) -> None:
        if self._closing:
            return
        function = self._apps.function(function_id)
        if function.is_builder_function:  # its containers are started by builds
            reason = "This function runs while its image is built, and cannot be called."
            self._fail_waiting(function_id, made_here(api_pb2.GenericResult.GENERIC_STATUS_FAILURE, reason))
            return
        definition_id = self._apps.definition_id(function_id)
        live = [
            task
            for task in self._tasks.values()
            if task.function_id == function_id and task.definition_id == definition_id
            if not (task.draining or task.spent)
        ]
        wanted = scaling.missing(
            function,
            self.settings(function_id),
            live,
            backlog=self.backlog(function_id),
            blocked=len(self._waited_for_by(function_id, live)) if len(live) >= scaling.MAX_CONTAINERS else 0,
        )
        if wanted and self._apps.app_of(function_id).stopped_at:
            stopped = made_here(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, "The app is stopped.")
            self._fail_waiting(function_id, stopped)
            return
        for _ in range(wanted):
            self._spawn(self._run(self._new_task(function_id, definition_id), self._make_container))

    def _waited_for_by(self, function_id: str, live: Iterable[Task]) -> set[str]:
        """Return the ids of those containers that work on a caller of an input that waits, or on that one's caller.

        A caller in between may be in another function's container.
        """
        waiting = islice(self._waiting.get(function_id, ()), _HEAD_INPUTS)
        callers = {item.call.parent_input_id for item in waiting}
        seen: set[str] = set()
        while callers := callers - seen - {""}:
            seen |= callers
            items = (task.inputs.get(caller) for task in self._tasks.values() for caller in callers)
            callers = {item.call.parent_input_id for item in items if item is not None}
        return {task.task_id for task in live if not seen.isdisjoint(task.inputs)}

    def _new_task(self, function_id: str, definition_id: str) -> Task:
        capacity = scaling.capacity(self._apps.function(function_id))
        clock = self._clocks.of_function(function_id)
        task = Task(new_id("ta"), function_id, definition_id, capacity, clock.time(), clock.monotonic())
        self._tasks[task.task_id] = task
        return task

    async def _run(self, task: Task, make_container: ContainerFactory) -> None:
        """Run one container from start to end. However it ends, its inputs get a result and its mounts are released."""
        try:
            task.container = await make_container(task.task_id, task.function_id, task.definition_id)
            if task.draining:
                self._spawn(self._end_drained(task))
            await task.container.start()
            _log.info("container.started", task_id=task.task_id, function_id=task.function_id)
            await self._limit_start(task, task.container)
            await task.container.exited.wait()
        except Exception as error:  # noqa: BLE001  # the boundary: a container that cannot start fails its inputs
            _log.error("container.failed", task_id=task.task_id, exc_info=error)
            if not self._serves(task.function_id):
                self._failures[task.function_id] = _START_FAILURES_ALLOWED
        finally:
            task.draining = True
            task.wake()
            try:
                if task.container is not None:
                    await task.container.aclose()
                    _log.info("container.ended", task_id=task.task_id, exit_code=task.container.exit_code)
            finally:
                self._tasks.pop(task.task_id, None)  # not earlier: its last output is logged by its task
            for item in reversed(list(task.inputs.values())):
                if item.output is not None or item.overdue:
                    continue
                if _starts_again(task, item):
                    self._requeue(item)
                else:
                    output = api_pb2.FunctionPutOutputsItem(input_id=item.input_id, result=_result_of_a_crash(item))
                    self._attempts.settle(item, output)
            task.inputs.clear()
            task.wake()
            if task.own is not None:
                _fail(task.own, made_here(api_pb2.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE, _DIED))
            else:
                self._count_and_replace(task)

    async def _limit_start(self, task: Task, container: Container) -> None:
        """Return when a container is ready or has ended; kill it if it is not ready after its startup timeout."""
        if task.own is not None:
            return
        limit_s = self._apps.function(task.function_id).startup_timeout_secs or DEFAULT_TIMEOUT_S
        clock = self._clocks.of_function(task.function_id)
        deadline = clock.monotonic() + limit_s
        while not (task.ready or container.exited.is_set()):
            left = deadline - clock.monotonic()
            if left > 0:
                await clock.first(task.changed.wait(), container.exited.wait(), timeout_s=left)
                continue
            _log.warning("container.start_timed_out", task_id=task.task_id)
            if not task.draining:
                reason = f"The function's container did not start within its startup timeout of {limit_s:g} s."
                result = made_here(api_pb2.GenericResult.GENERIC_STATUS_INIT_FAILURE, reason)
                self.failed_to_start(task.task_id, result)
            container.kill()
            return

    def _count_and_replace(self, task: Task) -> None:
        """Fail a function's inputs when its containers do not start, and start another one if it needs that."""
        if not self._serves(task.function_id):
            if not task.hello and not task.preempted:
                self._failures[task.function_id] = self._failures.get(task.function_id, 0) + 1
            if self._failures.get(task.function_id, 0) >= _START_FAILURES_ALLOWED:
                reason = (
                    "The function's container does not start: `modal app logs`, or cloud.log in the local cloud's "
                    "state directory, says why."
                )
                result = made_here(api_pb2.GenericResult.GENERIC_STATUS_INIT_FAILURE, reason)
                self._fail_waiting(task.function_id, result)
        self._replace(task)

    def _serves(self, function_id: str) -> bool:
        """Whether a container of a function takes inputs: then those that wait do not fail because another does not."""
        tasks = (task for task in self._tasks.values() if task.function_id == function_id)
        return any(task.ready and not (task.draining or task.spent) for task in tasks)

    def _replace(self, ended: Task) -> None:
        """Start another container when one has ended, if the function needs it.

        After containers that never asked for an input, the next one starts only after 1 s, 2 s, 4 s, … up to 60 s,
        because it will probably end, too. A new call of the function does not wait for that.
        """
        function_id = ended.function_id
        waited_for = self._waiting.get(function_id) and not self._serves(function_id)
        if ended.ready or ended.preempted or waited_for:
            self._scale(function_id)
            return
        crashes = self._crashes[function_id] = self._crashes.get(function_id, 0) + 1
        self._spawn(self._scale_after(function_id, min(_LONGEST_PAUSE_S, 2.0 ** min(crashes - 1, 6))))

    async def _scale_after(self, function_id: str, pause_s: float) -> None:
        await self._clocks.of_function(function_id).sleep(pause_s)
        self._scale(function_id)

    def _fail_waiting(self, function_id: str, result: api_pb2.GenericResult) -> None:
        _fail(self._waiting.pop(function_id, ()), result)
        self._failures.pop(function_id, None)

    def _drain(self, task: Task) -> None:
        if not task.draining:
            task.draining = True
            task.wake()
            self._spawn(self._end_drained(task))

    async def _end_drained(self, task: Task) -> None:
        """Wait until a draining container has finished its inputs, each of which has its timeout; then end it."""
        container = task.container
        if container is None:
            return  # `_run` does it once there is one
        while any(item.output is None for item in task.inputs.values()) and not container.exited.is_set():
            await _REAL.first(task.changed.wait(), container.exited.wait(), timeout_s=_CHECK_S)
        if not await _exits_within(container, _DRAIN_S):
            container.interrupt()
            await _end_within(container, _INTERRUPTED_S)

    async def _end(self, task: Task) -> None:
        task.draining = True
        task.wake()
        deadline = _REAL.monotonic() + _END_S
        while task.task_id in self._tasks and _REAL.monotonic() < deadline:
            if task.container is not None:
                task.container.kill()
                await _REAL.first(task.container.exited.wait(), timeout_s=1)
            await asyncio.sleep(0.01)

    async def _end_idle(self) -> None:
        """Drain containers that have been idle for longer than their function allows, until cancelled."""
        while True:
            await self._clocks.whole.sleep(1)
            for task in list(self._tasks.values()):
                settings = self.settings(task.function_id)
                peers = sum(1 for t in self._tasks.values() if t.function_id == task.function_id and not t.draining)
                idle_s = self._clocks.of_function(task.function_id).monotonic() - task.idle_since
                busy = task.inputs or self._waiting.get(task.function_id)
                idle = task.hello and not busy and idle_s > (settings.scaledown_window or DEFAULT_IDLE_S)
                if idle and peers > settings.min_containers:
                    self._drain(task)

    def _notify(self, function_id: str) -> None:
        event = self._news.pop(function_id, None)
        if event is not None:
            event.set()

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        job: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]  # coroutines only
        self._background.add(job)
        job.add_done_callback(self._background.discard)


async def _exits_within(container: Container, seconds: float) -> bool:
    await _REAL.first(container.exited.wait(), timeout_s=seconds)
    return container.exited.is_set()


async def _end_within(container: Container, grace_s: float) -> None:
    if not await _exits_within(container, grace_s):
        container.kill()


def _fail(items: Iterable[Input], result: api_pb2.GenericResult) -> None:
    for item in items:
        item.finish(result)


def _starts_again(task: Task, item: Input) -> bool:
    """Whether an input starts again in another container if this one, being preempted, does not finish it."""
    return task.own is None and task.preempted and not item.cancelled and item.call.can_start_again


def _result_of_a_crash(item: Input) -> api_pb2.GenericResult:
    """Return the result of an input whose container has ended without one.

    A cancelled input counts as cancelled: the SDK cancels by a signal, which ends the whole container until the SDK has
    set up its handler.
    """
    if item.cancelled:
        return cancelled()
    return made_here(api_pb2.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE, _DIED)

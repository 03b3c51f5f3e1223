"""Attempts: one input in one container. Limits their time, cancels them, and takes their results or retries them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.functions import retries
from workbench.local_cloud.functions.function_calls import Input
from workbench.local_cloud.functions.task import Task

DEFAULT_TIMEOUT_S = 300.0
_CANCEL_GRACE_S = 5.0  # a container that works on an input for so long after its timeout is killed
_CANCEL_S = 30.0  # within it a container must confirm that it has cancelled an input
_END_S = 10.0
_REAL = Clock()  # never advanced: how long a process may take to end is not a promise of Modal's


class Attempts:
    """Times, cancels and retries the inputs that containers work on. Once `closing` is set, nothing is retried."""

    def __init__(
        self,
        apps: Apps,
        clocks: Clocks,
        *,
        submit: Callable[[Input], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`submit` queues an input again, `spawn` runs work in the background."""
        self._apps = apps
        self._clocks = clocks
        self._submit = submit
        self._spawn = spawn
        self.closing = False

    def begin(self, item: Input, task: Task) -> None:
        """Record that a container has taken an input, and start the input's timeout."""
        clock = self._clocks.of_function(task.function_id)
        item.task_id, item.started_at = task.task_id, clock.time()
        item.overdue, item.attempt_over = False, asyncio.Event()
        task.inputs[item.input_id] = item
        timeout_s = self._apps.function(task.function_id).timeout_secs or DEFAULT_TIMEOUT_S
        item.time_limit = clock.call_later(timeout_s, lambda: self._spawn(self._end_overdue(item, task, timeout_s)))

    def settle(self, item: Input, output: api_pb2.FunctionPutOutputsItem) -> None:
        """Make an attempt's result the input's, or retry the input if the function's policy says so."""
        if item.output is not None:
            return
        policy = self._apps.function(item.call.function_id).retry_policy
        delay_s = retries.delay_s(policy, item.retry_count + 1)
        if output.result.status not in retries.RETRIED or item.cancelled or self.closing or delay_s is None:
            item.call.finish(item, output)
            return
        item.task_id = ""
        item.retry_count += 1
        item.end_attempt()
        self._spawn(self._try_again(item, delay_s))

    async def _try_again(self, item: Input, delay_s: float) -> None:
        await self._clocks.of_function(item.call.function_id).sleep(delay_s)
        if item.output is None:
            self._submit(item)

    def cancel(self, item: Input, task: Task) -> None:
        """Tell a container to cancel an input; if it has not confirmed that after 30 s, the input ends as cancelled."""
        task.cancellations.append(item.input_id)
        task.wake()
        self._spawn(self._enforce_cancel(item, task))

    async def _end_overdue(self, item: Input, task: Task, timeout_s: float) -> None:
        item.overdue = True
        reason = f"Task's current input hit its timeout of {timeout_s:g}s"
        result = made_here(api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT, reason)
        last = retries.delay_s(self._apps.function(item.call.function_id).retry_policy, item.retry_count + 1) is None
        if last:
            item.finish(result)
        task.cancellations.append(item.input_id)
        task.wake()
        await self._leave(item, task)
        if not last:  # not earlier: the same container must not get the input a second time
            self.settle(item, api_pb2.FunctionPutOutputsItem(input_id=item.input_id, result=result))

    async def _leave(self, item: Input, task: Task) -> None:
        """Wait until a container has ended an input that it was told to cancel; kill the container after 5 s."""
        deadline = _REAL.monotonic() + _CANCEL_GRACE_S
        while item.input_id in task.inputs and (left := deadline - _REAL.monotonic()) > 0:
            await _REAL.first(task.changed.wait(), timeout_s=left)
        if item.input_id in task.inputs and task.container is not None:
            task.container.kill()
            await _REAL.first(task.container.exited.wait(), timeout_s=_END_S)

    async def _enforce_cancel(self, item: Input, task: Task) -> None:
        await _REAL.first(item.attempt_over.wait(), timeout_s=_CANCEL_S)
        if item.output is None:
            item.finish(cancelled())
            task.wake()


def made_here(status: "api_pb2.GenericResult.GenericStatus.ValueType", reason: str) -> api_pb2.GenericResult:
    """Return a result with a status and a reason, for an input whose container has not returned one."""
    return api_pb2.GenericResult(status=status, exception=reason)


def cancelled() -> api_pb2.GenericResult:
    """Return the result of an input that was cancelled."""
    return made_here(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, "The input was cancelled.")

"""Waits for what ends a sandbox: its program, a crash, its timeout or its idle timeout. The caller then ends it."""

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

import structlog
from modal_proto import api_pb2

from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.sandbox_records import ENTRYPOINT_EXEC_ID, Record

_log = structlog.get_logger(__name__)

DEFAULT_TIMEOUT_S = 300  # Modal's
EXIT_TIMEOUT, EXIT_TERMINATED = 124, 137
_LOG_S = 5.0

Status: TypeAlias = "api_pb2.GenericResult.GenericStatus.ValueType"


async def outcome(record: Record, clock: Clock) -> tuple[Status, int]:
    """Wait until a sandbox has ended, or must end because of a timeout; returns its status and its exit code."""
    assert record.sandbox is not None
    entrypoint = record.entrypoint
    waits = [asyncio.ensure_future(record.sandbox.wait_closed())]
    if entrypoint is not None:
        waits.append(asyncio.ensure_future(entrypoint.wait()))  # type: ignore[arg-type]  # only waited for
    try:
        overdue = await _first_end(record, record.sandbox, clock, waits)
    finally:
        for wait in waits:
            wait.cancel()
    status = entrypoint.poll() if entrypoint is not None else None
    results = api_pb2.GenericResult
    if overdue is not None:
        return overdue, EXIT_TIMEOUT
    if status is None or record.sandbox.closed:
        memory = record.sandbox.exceeded is not None and record.sandbox.exceeded.what == "memory"
        ended = results.GENERIC_STATUS_KERNEL_OOM_KILL if memory else results.GENERIC_STATUS_TERMINATED
        return ended, EXIT_TERMINATED
    code = status.code if status.code is not None else 128 + (status.signal or 0)
    return results.GENERIC_STATUS_FAILURE if code else results.GENERIC_STATUS_SUCCESS, code


async def _first_end(
    record: Record, sandbox: Sandbox, clock: Clock, waits: "Sequence[asyncio.Future[None]]"
) -> "Status | None":
    """Wait for one of `waits`, the timeout or the idle timeout; returns the status of a timeout, else None."""
    deadline = clock.monotonic() + (record.definition.timeout_secs or DEFAULT_TIMEOUT_S)
    idle_limit_s = float(record.definition.idle_timeout_secs or 0)
    while True:
        left = deadline - clock.monotonic()
        if left <= 0:
            return api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT
        if idle_limit_s:
            idle_left = idle_limit_s - sandbox.idle_s(apart_from=ENTRYPOINT_EXEC_ID)
            if idle_left <= 0:
                return api_pb2.GenericResult.GENERIC_STATUS_IDLE_TIMEOUT
            left = min(left, idle_left)
        await clock.first(*map(asyncio.shield, waits), timeout_s=left)
        if any(wait.done() for wait in waits):
            return None


async def finish_the_log(record: Record) -> None:
    """Wait until all output of a sandbox's program is in the app's log, but no longer than 5 s."""
    if record.logging:
        done, late = await asyncio.wait(record.logging, timeout=_LOG_S)
        for task in late:
            task.cancel()
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("sandbox.log_failed", sandbox_id=record.sandbox_id, exc_info=error)

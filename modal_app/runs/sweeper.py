"""The sweeper: finds runs, sandboxes and archives that nobody owns any more, and ends them. It runs on a schedule.

A run is closed when its owner is dead, or when it ended a while ago and is not archived. A sandbox is terminated when
its run has ended or does not exist, when its run's owner is dead, or when it was prewarmed and its time is over. Each
sandbox is looked at twice, half a lease apart: one that is just being created or adopted may look unowned the first
time. An archive is removed `keep_s` seconds after its run's end.
"""

import asyncio
import datetime as dt
import time

import structlog

from modal_app import logs
from modal_app.endpoint_settings import Timeouts
from modal_app.runs import log as run_log
from modal_app.runs.archive_writer import Archive
from modal_app.runs.closing import Closer
from modal_app.runs.leases import Leases
from modal_app.runs.ownership import Pulse
from modal_app.runs.run_records import Records, RunRecord
from modal_app.runs.shared_state import SharedState
from modal_app.sandboxes.fleet import RUN_TAG, Fleet, Platform, project_name
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS

_log = structlog.get_logger(__name__)

_AT_ONCE = 8


class Sweeper:
    """Makes sweeps with these deadlines over the sandboxes of `platform` and the runs of `state`."""

    def __init__(self, timeouts: Timeouts, platform: Platform, state: SharedState) -> None:
        logs.configure()
        self._timeouts = timeouts
        self._state = state
        self._fleet = Fleet(platform, timeouts)
        self._archive = Archive(state)
        self._records = Records(state)
        self._pulse = Pulse(state, lease_s=timeouts.lease_s)
        self._leases = Leases(state, self._records, self._pulse)
        self._closer = Closer(state, self._records, self._archive, self._fleet)

    async def sweep(self) -> dict[str, int]:
        """Make one sweep; returns how many `runs`, `sandboxes` and `archives` it has ended or removed."""
        look = Look(self._records, self._pulse)
        counts = {
            "runs": await self._sweep_runs(look),
            "sandboxes": await self._sweep_sandboxes(look),
            "archives": await self._sweep_archives(),
        }
        _log.info("sweep.end", **counts)
        return counts

    async def _sweep_runs(self, seen: "Look") -> int:
        """Close runs whose owner is dead, and archive runs that their owner could not archive; returns how many."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def look(run_id: str) -> int:
            async with limit:
                try:
                    return await self._look_at_run(run_id, seen)
                except (*PLATFORM_ERRORS, AssertionError) as error:
                    _log.warning("sweep.run_failed", run_id=run_id, reason=f"{type(error).__name__}: {error}"[:300])
                    return 0

        return sum(await asyncio.gather(*(look(run_id) for run_id in await self._records.under_way())))

    async def _look_at_run(self, run_id: str, seen: "Look") -> int:
        record = await seen.record(run_id)
        if record is None:
            if _age_s(run_id) > self._timeouts.lease_s + self._timeouts.sweep_margin_s:
                await self._records.settle(run_id)
            return 0
        if not record.under_way:
            await self._records.settle(run_id)
            return 0
        waited_s = time.time() - record.ended_at_ms / 1000
        margin_s = self._timeouts.sweep_margin_s
        if record.state == "ended" and waited_s < margin_s and not await seen.is_dead(record.owner):
            return 0  # its owner lives and is about to archive it
        if record.state == "open" and not await seen.is_dead(record.owner):
            return 0
        await self._closer.close(record)
        return 1

    async def _sweep_sandboxes(self, seen: "Look") -> int:
        first = [sandbox.object_id for sandbox, tags in await self._fleet.all() if await self._is_unowned(tags, seen)]
        if not first:
            return 0
        await asyncio.sleep(self._timeouts.lease_s / 2)
        ended, again = 0, Look(self._records, self._pulse)
        for sandbox, tags in await self._fleet.all():
            if sandbox.object_id in first and await self._is_unowned(tags, again):
                _log.warning("sweep.sandbox", sandbox_id=sandbox.object_id, run_id=tags.get(RUN_TAG))
                await self._fleet.end(sandbox)
                ended += 1
        return ended

    async def _is_unowned(self, tags: dict[str, str], seen: "Look") -> bool:
        run_id = tags.get(RUN_TAG)
        if run_id is None:
            return False  # the sandbox belongs to no run
        record = await seen.record(run_id)
        if record is None:
            return _age_s(run_id) > self._timeouts.start_s + self._timeouts.sweep_margin_s
        if record.state == "open":
            return await seen.is_dead(record.owner)
        if record.action == "prewarm" and record.outcome == "done":
            return await self._is_unused(record)
        return time.time() - record.ended_at_ms / 1000 > self._timeouts.sweep_margin_s

    async def _is_unused(self, record: RunRecord) -> bool:
        """Whether the time is over for which a prewarmed sandbox waits for a run."""
        last = await self._leases.last(project_name(record.user_id, record.project_id))
        until_ms = last.warm.until_ms if last is not None and last.warm is not None else record.ended_at_ms
        return time.time() > until_ms / 1000 + self._timeouts.sweep_margin_s

    async def _sweep_archives(self) -> int:
        """Remove archives of runs that are no longer kept, and what may be left of their logs; returns how many."""
        oldest = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=self._timeouts.keep_s)
        removed = 0
        async for run_id in self._archive.runs_before(_day_after(oldest)):
            record = await self._records.get(run_id)
            if (record is None and _age_s(run_id) > self._timeouts.keep_s) or (
                record is not None and record.expired(self._timeouts.keep_s)
            ):
                await self._archive.remove(run_id)
                await run_log.clear(self._state.log, run_id)
                if record is not None:
                    await self._records.expire(record)
                removed += 1
        return removed


class Look:
    """What one look sees: each record and each owner is asked for once, however many runs and sandboxes they have."""

    def __init__(self, records: Records, pulse: Pulse) -> None:
        self._records = records
        self._pulse = pulse
        self._seen: dict[str, RunRecord | None] = {}
        self._dead: dict[str, asyncio.Task[bool]] = {}

    async def record(self, run_id: str) -> RunRecord | None:
        """A run's record, None when there is none. Platform errors are raised."""
        if run_id not in self._seen:
            self._seen[run_id] = await self._records.get(run_id)
        return self._seen[run_id]

    async def is_dead(self, owner: str) -> bool:
        """Whether an owner is dead. Platform errors are raised; then it is asked for again."""
        asked = self._dead.get(owner)
        if asked is None or (asked.done() and asked.exception() is not None):
            asked = self._dead[owner] = asyncio.create_task(self._pulse.is_dead(owner))
        return await asyncio.shield(asked)


def _age_s(run_id: str) -> float:
    """Seconds since a run was accepted, by the time in its id."""
    return time.time() - int(run_id.replace("-", "")[:12], 16) / 1000


def _day_after(moment: dt.datetime) -> str:
    return (moment + dt.timedelta(days=1)).strftime("%Y-%m-%d")

"""Spools for runs that this container does not execute: those of other containers, and archived ones.

A run gets a spool while it has readers here. It is filled from the log while the run is under way, and from the archive
afterwards. Meanwhile the run's owner is watched: when it is dead, this container closes the run, so that no reader
waits for an end that nobody would write.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import modal.exception
import structlog

from modal_app.runs.archive_writer import Archive
from modal_app.runs.closing import Closer
from modal_app.runs.event_spool import Spool
from modal_app.runs.log import LogReader
from modal_app.runs.ownership import Pulse
from modal_app.runs.run_records import Records, RunRecord
from modal_app.runs.shared_state import SharedState
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS, retrying

_log = structlog.get_logger(__name__)

_RETRY_S = 0.5
_WATCHES = 3  # looks at the owner per lease
_PATIENCE = 20  # failed reads in a row before readers are told
_ARCHIVE_S = 10.0  # for the platform to give an archive: a reader waits meanwhile


class FollowedRuns:
    """Keeps one spool for each run that is read here, and fills it for as long as it has readers."""

    def __init__(
        self,
        state: SharedState,
        records: Records,
        archive: Archive,
        pulse: Pulse,
        closer: Closer,
        *,
        lease_s: float,
    ) -> None:
        self._state = state
        self._records = records
        self._archive = archive
        self._pulse = pulse
        self._closer = closer
        self._watch_s = lease_s / _WATCHES
        self._open: dict[str, tuple[Spool, asyncio.Task[None]]] = {}

    @contextmanager
    def reading(self, record: RunRecord) -> Iterator[Spool]:
        """The run's spool, for the duration of the block; the last reader's block closes it."""
        if record.run_id not in self._open:
            spool = Spool(record.run_id)
            self._open[record.run_id] = (spool, asyncio.create_task(self._fill(spool, record)))
        spool, filling = self._open[record.run_id]
        spool.readers += 1
        try:
            yield spool
        finally:
            spool.readers -= 1
            if not spool.readers:
                filling.cancel()
                del self._open[record.run_id]
                spool.close()

    async def aclose(self) -> None:
        """Stop filling spools; their readers get SpoolBrokenError. Idempotent."""
        for spool, filling in list(self._open.values()):
            filling.cancel()
            spool.fail("the endpoint is shutting down")

    async def _fill(self, spool: Spool, record: RunRecord) -> None:
        work = [self._from_log(spool), self._watch(spool, record)] if record.under_way else [self._from_archive(spool)]
        jobs = [asyncio.create_task(one) for one in work]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            if spool.terminal is None:
                spool.fail("the run's events can be read neither from its log nor from its archive now")
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _from_log(self, spool: Spool) -> None:
        reader = LogReader(self._state.log, spool.run_id)
        failures = 0
        while failures < _PATIENCE:
            try:
                async for batch in reader.follow():
                    spool.append(batch)
                    failures = 0
                if spool.terminal is not None:
                    return
            except PLATFORM_ERRORS as error:
                failures += 1
                _log.warning("log.read_failed", run_id=spool.run_id, reason=type(error).__name__)
            await asyncio.sleep(_RETRY_S)

    async def _from_archive(self, spool: Spool) -> None:
        with suppress(*PLATFORM_ERRORS):  # then how the run has ended is not known here
            async for attempt in retrying(pause_s=_RETRY_S, within_s=_ARCHIVE_S):
                with attempt, suppress(modal.exception.NotFoundError):
                    await self._archive.read(spool.run_id, spool)

    async def _watch(self, spool: Spool, record: RunRecord) -> None:
        """Close the run when its owner is dead; once it is archived, read the archive: the log may be gone."""
        while spool.terminal is None:
            await asyncio.sleep(self._watch_s)
            try:
                known = await self._records.get(record.run_id)
                if known is None or known.state == "expired":
                    return
                if not known.under_way:
                    await self._archive.read(spool.run_id, spool)
                    return
                if await self._pulse.is_dead(known.owner):
                    await self._closer.close(known)
            except PLATFORM_ERRORS as error:
                _log.warning("run.watch_failed", run_id=record.run_id, reason=type(error).__name__)

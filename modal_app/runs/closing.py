"""Closes runs whose owner is dead: terminates their sandbox, gives their log its terminal event, writes their archive.

Any container may do this, and several may at once: the first terminal event in the log counts for all of them, and
every other step is idempotent. The page in `modal_app.runs` says when a run is closed.
"""

import asyncio
import time

import structlog

from modal_app.contract import sse
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import ErrorEvent, Phase, SandboxFacts, StatusEvent, TerminalEvent
from modal_app.runs.archive_writer import Archive, ArchiveFailedError
from modal_app.runs.batches import Batch, events_of
from modal_app.runs.event_spool import Spool
from modal_app.runs.log import LogReader, LogWriter
from modal_app.runs.run_records import Records, RunRecord
from modal_app.runs.shared_state import SharedState
from modal_app.sandboxes.fleet import Fleet
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS

_log = structlog.get_logger(__name__)

_APPEND_S = 60.0
LOST = ContractError(ErrorCode.CONTAINER_LOST, "the endpoint's container ended, or was not heard of, during the run")
CANCELLED = ContractError(ErrorCode.CANCELLED, "the run was cancelled")


async def _always() -> bool:
    """What is written for a dead owner may always be written."""
    return True


class Closer:
    """Closes runs that their owner has left behind."""

    def __init__(self, state: SharedState, records: Records, archive: Archive, fleet: Fleet) -> None:
        self._state = state
        self._records = records
        self._archive = archive
        self._fleet = fleet

    async def close(self, record: RunRecord, reason: ContractError = LOST) -> TerminalEvent:
        """Close a run whose owner is dead, and return its terminal event. Idempotent. Platform errors are raised.

        `reason` becomes the terminal event unless the log has one already.
        """
        sandbox_id = await self._fleet.end_run(record.run_id)
        sandbox = SandboxFacts(id=sandbox_id, uid=0, terminated=True) if sandbox_id else None
        spool = Spool(record.run_id)
        try:
            async with asyncio.timeout(_APPEND_S):
                await self._end(record, reason, sandbox, spool)
            terminal = spool.terminal
            assert terminal is not None
            record = await self._records.ended(record, terminal.outcome)
            _log.warning("run.closed", run_id=record.run_id, outcome=record.outcome, owner=record.owner)
            await self._keep(record, spool, terminal)
        finally:
            spool.close()
        return terminal

    async def _end(self, record: RunRecord, reason: ContractError, sandbox: SandboxFacts | None, spool: Spool) -> None:
        """Read the log into the spool; if it has no terminal event, append one and read again until one counts."""
        reader = LogReader(self._state.log, record.run_id)
        last_elapsed_ms = 0
        while True:
            for batch in await reader.to_the_end():
                spool.append(batch)
                last_elapsed_ms = events_of(batch.frames)[-1].elapsed_ms
            if spool.terminal is not None:
                return
            now_ms = int(time.time() * 1000)
            elapsed_ms = max(last_elapsed_ms, now_ms - record.accepted_at_ms)
            frames, seq = b"", spool.last_seq + 1
            if seq == 1:
                first = StatusEvent(
                    run_id=record.run_id,
                    seq=seq,
                    at_ms=record.accepted_at_ms,
                    elapsed_ms=0,
                    phase=Phase.ACCEPTED,
                    message="the run is accepted",
                )
                frames, seq = sse.frame(first), 2
            last = ErrorEvent(
                run_id=record.run_id,
                seq=seq,
                at_ms=now_ms,
                elapsed_ms=elapsed_ms,
                code=reason.code,
                message=reason.message,
                recoverable=reason.recoverable,
                sandbox=sandbox,
            )
            writer = LogWriter(self._state.log, record.run_id, may_write=_always, segment=reader.segment)
            await writer.append(Batch(spool.last_seq + 1, seq, frames + sse.frame(last), terminal=True))

    async def _keep(self, record: RunRecord, spool: Spool, terminal: TerminalEvent) -> None:
        bundle = record.bundle(
            terminal,
            spool.facts,
            closed_by="other",
            sandbox=terminal.sandbox,
            commit=terminal.commit,
            timings=terminal.timings,
        )
        try:
            await self._archive.write(spool, bundle)
            await self._records.archived(record)
            await self._archive.settle(bundle)
        except (ArchiveFailedError, *PLATFORM_ERRORS) as error:
            _log.warning("run.not_archived", run_id=record.run_id, reason=str(error)[:300])

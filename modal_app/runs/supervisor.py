"""Executes this container's runs, at most `max_runs` at a time, each in a task, from acceptance to its archive."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import structlog

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import TerminalEvent
from modal_app.contract.requests import Request
from modal_app.runs.archive_writer import Archive, ArchiveFailedError
from modal_app.runs.closing import Closer
from modal_app.runs.event_spool import Spool
from modal_app.runs.journal import Journal
from modal_app.runs.leases import Lease, WarmSandbox
from modal_app.runs.log import LogWriter
from modal_app.runs.ownership import Ownership
from modal_app.runs.run_execution import Run, RunResources
from modal_app.runs.run_messages import Control, Message
from modal_app.runs.run_records import Records, RunRecord
from modal_app.runs.shared_state import SharedState
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS, retrying

_log = structlog.get_logger(__name__)

_ARCHIVE_ATTEMPTS = 3
_ARCHIVE_PAUSE_S = 1.0
_STOP_S = 5.0
_LISTEN_AGAIN_S = 0.5


class Supervisor:
    """Starts runs, and holds each until it is archived and has no reader in this container."""

    def __init__(
        self, resources: RunResources, state: SharedState, records: Records, archive: Archive, closer: Closer
    ) -> None:
        self._ownership: Ownership | None = None
        self._resources = resources
        self._state = state
        self._records = records
        self._archive = archive
        self._closer = closer
        self._control = Control(state)
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # of the runs that are going on or being archived
        self._listener: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._container_start_ms: int | None = _since_process_start_ms()  # told by the first run

    async def ready(self) -> Ownership:
        """The ownership for runs that start now; a new one when there is none yet or the last one is lost.

        Platform errors are raised, also when the platform does not decide within a lease whether it is lost.
        """
        if self._ownership is not None:
            await self._ownership.is_lost()
        async with self._starting:
            if self._ownership is not None and not self._ownership.lost:
                return self._ownership
            ownership = Ownership(
                self._state,
                lease_s=self._resources.settings.timeouts.lease_s,
                on_lost=lambda: self._abandon(ownership.owner),
            )
            try:
                await ownership.start()
                await self._leave()
            except BaseException:
                await ownership.aclose()
                raise
            self._ownership = ownership
            self._listener = asyncio.create_task(self._listen(ownership.owner))
            return ownership

    async def _leave(self) -> None:
        """Give up the present ownership, if any: stop listening for its messages and remove its beat."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener], timeout=_STOP_S)
        if self._ownership is not None:
            await self._ownership.aclose()

    def check_room(self) -> None:
        """Raise ContractError `over_capacity` when this container executes as many runs as it may."""
        if len(self._tasks) >= self._resources.settings.max_runs:
            message = f"this container executes {len(self._tasks)} runs, the most it may: try again soon"
            raise ContractError(ErrorCode.OVER_CAPACITY, message)

    def start(
        self,
        record: RunRecord,
        request: Request,
        ownership: Ownership,
        *,
        lease: Lease | None,
        warm: WarmSandbox | None,
        failures: int = 0,
    ) -> Run:
        """Execute a run whose record this container has created under this ownership; see Run for the arguments."""
        container_start_ms, self._container_start_ms = self._container_start_ms, None
        log = LogWriter(self._state.log, record.run_id, may_write=ownership.may_write)
        run = Run(
            record,
            request,
            Journal(Spool(record.run_id), log),
            self._resources,
            lease=lease,
            warm=warm,
            failures=failures,
            container_start_ms=container_start_ms,
        )
        self._runs[run.run_id] = run
        if ownership.lost:  # since `ready`, and `on_lost` did not know of this run
            run.abandon()
        task = asyncio.create_task(self._keep(run, ownership))
        self._tasks[run.run_id] = task
        task.add_done_callback(lambda done: self._kept(run, done))
        return run

    def get(self, run_id: str) -> Run | None:
        """A run that this container executes, or has executed and still has the events of; else None."""
        return self._runs.get(run_id)

    def let_go(self, run_id: str) -> None:
        """Forget a run and release its spool, unless it still has readers here or is not archived yet."""
        run = self._runs.get(run_id)
        if run is not None and run_id not in self._tasks and not run.journal.spool.readers:
            del self._runs[run_id]
            run.journal.spool.close()

    async def aclose(self) -> None:
        """Let runs go on for `drain_s` seconds and end those that are left; then close everything. Idempotent.

        A container is told to end when it is preempted, or another version is deployed. Runs that end in that time are
        not disturbed: their readers come back to them in another container. For the others it waits `terminate_s`
        seconds, in which their sandboxes end and their archives are written.
        """
        timeouts = self._resources.settings.timeouts
        if self._tasks:
            _log.info("container.draining", runs=len(self._tasks))
            await asyncio.wait(list(self._tasks.values()), timeout=timeouts.drain_s)
        for run in list(self._runs.values()):
            run.abandon()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=timeouts.terminate_s)
        await self._leave()
        for run in list(self._runs.values()):
            await run.journal.aclose()
            run.journal.spool.close()

    def _abandon(self, owner: str) -> None:
        """Abandon the runs of an owner that is lost."""
        for run in list(self._runs.values()):
            if run.record.owner == owner:
                run.abandon()

    async def _keep(self, run: Run, ownership: Ownership) -> None:
        record = run.record
        structlog.contextvars.bind_contextvars(run_id=run.run_id)
        _log.info(
            "run.start",
            action=record.action,
            user_id=record.user_id,
            project_id=record.project_id,
            cold_start=run.cold_start,
        )
        terminal = await run.live()
        if terminal is not None:
            await self._archive_run(run, terminal)
        elif (failure := run.journal.failure) is not None:
            await self._close(run, failure, ownership)

    def _kept(self, run: Run, task: "asyncio.Task[None]") -> None:
        """After a run's task: the run is archived, or is left to the sweeper."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("run.not_kept", run_id=run.run_id, exc_info=error)
        if run.record.state == "open":  # the log was lost: another container closes the run
            run.record = run.record.model_copy(update={"state": "ended"})
        del self._tasks[run.run_id]
        self.let_go(run.run_id)

    async def _archive_run(self, run: Run, terminal: TerminalEvent) -> None:
        """Record the end and write the archive; after 3 failures the sweeper does it."""
        attempts = retrying(pause_s=_ARCHIVE_PAUSE_S, attempts=_ARCHIVE_ATTEMPTS, also=(ArchiveFailedError,))
        try:
            async for attempt in attempts:
                with attempt:
                    run.record = await self._records.ended(run.record, terminal.outcome)
                    await self._archive.write(run.journal.spool, run.bundle(terminal), run.request)
                    run.record = await self._records.archived(run.record)
            await self._archive.settle(run.bundle(terminal))
        except (ArchiveFailedError, *PLATFORM_ERRORS) as error:
            _log.warning("run.not_archived", reason=str(error)[:300])

    async def _close(self, run: Run, failure: ContractError, ownership: Ownership) -> None:
        """Give a run its end when its own writer cannot, however often that fails; of a lost owner, others do it."""
        async for attempt in retrying(pause_s=_ARCHIVE_PAUSE_S, also=(Exception,)):
            with attempt:
                if not ownership.lost:
                    await self._closer.close(run.record, failure)

    async def _listen(self, owner: str) -> None:
        """Act on the messages that other containers send to this owner, until cancelled."""
        waiting: list[Message] = []
        while True:
            try:
                waiting = waiting or await self._control.receive(owner)
                while waiting:
                    self._heard(waiting.pop(0))
            except Exception:  # noqa: BLE001  # the boundary: an owner that hears nothing cannot be told to cancel
                _log.exception("control.broken")
                await asyncio.sleep(_LISTEN_AGAIN_S)

    def _heard(self, message: Message) -> None:
        run = self._runs.get(message.run_id)
        match message.op:
            case _ if run is None:
                return
            case "cancel":
                run.cancel()
            case "reading":
                run.readers.remote(message.reader, message.for_s)
            case "left":
                run.readers.left(message.reader)


def _since_process_start_ms() -> int:
    """Milliseconds since this process was started; 0 where /proc does not tell."""
    with suppress(OSError, ValueError, IndexError):
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        started = ticks / os.sysconf("SC_CLK_TCK")
        up = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
        return max(0, int((up - started) * 1000))
    return 0

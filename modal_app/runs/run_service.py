"""What a container does with requests about runs: start one or join it, read it, cancel it, wherever it is executed."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import structlog

from modal_app import actions
from modal_app.contract.errors import ContractError, ErrorCode, internal_error
from modal_app.contract.events import TerminalEvent
from modal_app.contract.requests import PrewarmRequest, Request
from modal_app.endpoint_settings import Settings
from modal_app.model.access import ModelAccess
from modal_app.runs.archive_writer import Archive
from modal_app.runs.breaker import Breaker
from modal_app.runs.closing import CANCELLED, Closer
from modal_app.runs.event_spool import Spool
from modal_app.runs.following import FollowedRuns
from modal_app.runs.leases import SUBMIT_S, Lease, Leases, ProjectBusyError, WarmSandbox
from modal_app.runs.ownership import Pulse
from modal_app.runs.run_execution import RunResources
from modal_app.runs.run_messages import Control, Message
from modal_app.runs.run_records import Records, RunRecord, body_digest
from modal_app.runs.shared_state import SharedState
from modal_app.runs.starts import Starts
from modal_app.runs.supervisor import Supervisor
from modal_app.sandboxes.fleet import Fleet, Platform, project_name
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS, retrying

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_PRESENCE_S = 15.0  # for which an owner counts a reader elsewhere; the owner is told of it three times in that time
_JOIN_S = 10.0  # for the container that has claimed the project to create the run's record
_POLL_S = 0.1
_STOP_S = 10.0
_UNDO_PAUSE_S = 1.0
# One text for both: a caller must not learn that another user's run exists.
_NO_RUN_OF_KEY = (
    "Last-Event-ID: no run was started with this request's Idempotency-Key, so the reader can have none of its events: "
    "leave the header out to start one"
)
_NO_RUN = "there is no such run: the id is not known here, or the run is another user's"


class RunService:
    """All runs, as one container sees them: it executes some of them and follows the others."""

    def __init__(self, settings: Settings, platform: Platform, state: SharedState, model: ModelAccess) -> None:
        timeouts = settings.timeouts
        fleet = Fleet(platform, timeouts)
        archive = Archive(state)
        self._settings = settings
        self._model = model
        self._records = Records(state)
        self._pulse = Pulse(state, lease_s=timeouts.lease_s)
        self._leases = Leases(state, self._records, self._pulse)
        self._breaker = Breaker(state)
        self._control = Control(state)
        self._closer = Closer(state, self._records, archive, fleet)
        starts = Starts(quick_s=timeouts.cold_start_s / 2, slow_s=timeouts.cold_start_s, most=settings.max_runs)
        resources = RunResources(platform, settings, fleet, self._leases, self._breaker, model, starts)
        self._supervisor = Supervisor(resources, state, self._records, archive, self._closer)
        self._following = FollowedRuns(
            state, self._records, archive, self._pulse, self._closer, lease_s=timeouts.lease_s
        )
        self._background: set[asyncio.Task[Any]] = set()

    async def submit(self, request: Request, key: str) -> str:
        """Start a run, or find the one that was started with this idempotency key; returns the run's id.

        Raises ContractError `project_busy`, `over_capacity`, `idempotency_conflict`, `invalid_request`,
        `model_error`, `sandbox_unavailable`.
        """
        limit = self._settings.timeouts.process_s
        if request.timeout_s is not None and request.timeout_s > limit:
            message = f"timeout_s: is {request.timeout_s}, and at most {limit} on this endpoint"
            raise ContractError(ErrorCode.INVALID_REQUEST, message)
        longest = self._settings.timeouts.longest_wait_s
        if request.wait_s > longest:
            message = f"wait_s: is {request.wait_s}, and at most {longest} on this endpoint"
            raise ContractError(ErrorCode.INVALID_REQUEST, message)
        if actions.needs_model(request) or (isinstance(request, PrewarmRequest) and request.with_model):
            self._model.check()
        # Shielded: a client that leaves now must not leave its project claimed. The run is started, without a reader.
        submitted: str = await _platform_answer(asyncio.shield(self._spawn(self._submit(request, key))))
        return submitted

    async def started(self, request: Request, key: str) -> str:
        """The id of the run that was started with this idempotency key; starts none.

        Raises ContractError `invalid_request` when there is none, `idempotency_conflict`, `sandbox_unavailable`.
        """
        run_id = await _platform_answer(self._records.claimed(key, request))
        if run_id is None or not await _platform_answer(self._is_known(run_id)):
            raise ContractError(ErrorCode.INVALID_REQUEST, _NO_RUN_OF_KEY)
        return run_id

    async def record(self, run_id: str, *, user_id: str | None = None) -> RunRecord:
        """A run's record. With a `user_id`, another user's run does not exist.

        Raises ContractError `not_found`, `gone`, `sandbox_unavailable`.
        """
        run = self._supervisor.get(run_id)
        found = run.record if run is not None else await _platform_answer(self._records.get(run_id))
        if found is None or (user_id is not None and found.user_id != user_id):
            raise ContractError(ErrorCode.NOT_FOUND, _NO_RUN)
        if found.expired(self._settings.timeouts.keep_s):
            raise ContractError(ErrorCode.GONE, f"run {run_id} has ended and is no longer kept", run_id=run_id)
        return found

    def last_seq(self, record: RunRecord) -> int | None:
        """The number of the last event of a run that this container executes; None for all other runs."""
        run = self._supervisor.get(record.run_id)
        return None if run is None else run.journal.last_seq

    @asynccontextmanager
    async def reading(self, record: RunRecord) -> AsyncIterator[Spool]:
        """The spool of a run's events for one reader, whom the run counts for the duration of the block."""
        run = self._supervisor.get(record.run_id)
        if run is not None:
            spool = run.journal.spool
            spool.readers += 1
            try:
                with run.readers.reading():
                    yield spool
            finally:
                spool.readers -= 1
                self._supervisor.let_go(record.run_id)
            return
        telling = asyncio.create_task(self._tell_of_reader(record)) if record.state == "open" else None
        try:
            with self._following.reading(record) as spool:
                yield spool
        finally:
            if telling is not None:
                telling.cancel()

    async def cancel(self, run_id: str) -> TerminalEvent:
        """Cancel a run, wait until it and its sandbox have ended, and return its terminal event.

        A run that has ended already stays as it is.
        Raises ContractError `not_found`, `gone`, `sandbox_unavailable`; SpoolBrokenError when its end cannot be read.
        """
        record = await self.record(run_id)
        run = self._supervisor.get(run_id)
        async with self.reading(record) as spool:
            if run is not None:
                run.cancel()
            elif record.state == "open":
                await _platform_answer(self._cancel_elsewhere(record))
            return await spool.ended()

    async def aclose(self) -> None:
        """End every run of this container. Idempotent."""
        if self._background:
            await asyncio.wait(list(self._background), timeout=_STOP_S)
        for task in list(self._background):
            task.cancel()
        await self._following.aclose()
        await self._supervisor.aclose()

    async def _submit(self, request: Request, key: str) -> str:
        async with asyncio.timeout(SUBMIT_S):
            ownership = await self._supervisor.ready()
            run_id, is_new = await self._records.claim(key, request)
            if not is_new and await self._is_known(run_id):
                return run_id
            self._supervisor.check_room()
            record = RunRecord(
                run_id=run_id,
                user_id=request.user_id,
                project_id=request.project_id,
                action=request.action,
                body_sha256=body_digest(request),
                owner=ownership.owner,
                accepted_at_ms=int(time.time() * 1000),
                submission=secrets.token_hex(8),
            )
            failures = 0
            lease: Lease | None = None
            warm: WarmSandbox | None = None
            if actions.needs_sandbox(request):
                failures = await self._breaker.check(_project(record))
                try:
                    lease, warm = await self._claim(record)
                except ProjectBusyError as busy:
                    if busy.run_id == run_id:  # the same request is being started by another container
                        return await self._joined(run_id)
                    if not request.wait_s:
                        raise
            if await self._create(record):
                self._supervisor.start(record, request, ownership, lease=lease, warm=warm, failures=failures)
            elif lease is not None:  # another container was first
                self._spawn(self._give_back(record))
            return run_id

    async def _is_known(self, run_id: str) -> bool:
        return self._supervisor.get(run_id) is not None or await self._records.get(run_id) is not None

    async def _claim(self, record: RunRecord) -> tuple[Lease, WarmSandbox | None]:
        """Claim the project of a run. When it is not known whether that was done, it is undone."""
        try:
            return await self._leases.claim(_project(record), record)
        except ProjectBusyError:
            raise
        except BaseException:
            self._spawn(self._give_back(record))
            raise

    async def _create(self, record: RunRecord) -> bool:
        """Create a run's record; False when another container was first. When neither is known, all is undone."""
        try:
            return await self._records.create(record) == record
        except BaseException:
            self._spawn(self._undo(record))
            raise

    async def _undo(self, record: RunRecord) -> None:
        """Close a run of which it is not known whether its record was created, and which nobody executes."""
        await self._give_back(record)
        await asyncio.sleep(_UNDO_PAUSE_S)
        async for attempt in retrying(pause_s=_UNDO_PAUSE_S):
            with attempt:
                kept = await self._records.get(record.run_id)
                if kept == record:
                    await self._closer.close(record, internal_error())
                elif kept is None:
                    await self._records.settle(record.run_id)

    async def _give_back(self, record: RunRecord) -> None:
        """Release the project of a run that nobody executes; a claim that arrives late is looked for once more."""
        for pause_s in (0, _UNDO_PAUSE_S):
            await asyncio.sleep(pause_s)
            with suppress(*PLATFORM_ERRORS):  # then the claim is over by itself after a while
                async for attempt in retrying(pause_s=_UNDO_PAUSE_S, within_s=SUBMIT_S):
                    with attempt:
                        if await self._leases.give_back(_project(record), record):
                            return

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _joined(self, run_id: str) -> str:
        async with asyncio.timeout(_JOIN_S):
            while await self._records.get(run_id) is None:  # noqa: ASYNC110  # another container makes it
                await asyncio.sleep(_POLL_S)
        return run_id

    async def _cancel_elsewhere(self, record: RunRecord) -> None:
        if await self._pulse.is_dead(record.owner):
            await self._closer.close(record, CANCELLED)
        else:
            await self._control.send(record.owner, Message(op="cancel", run_id=record.run_id))

    async def _tell_of_reader(self, record: RunRecord) -> None:
        """Tell the run's owner every 5 seconds that a reader is here, until cancelled; then that it has left."""
        reader = secrets.token_hex(8)
        there = Message(op="reading", run_id=record.run_id, reader=reader, for_s=_PRESENCE_S)
        try:
            while True:
                try:
                    await self._control.send(record.owner, there)
                except PLATFORM_ERRORS as error:
                    _log.warning("reader.not_told", run_id=record.run_id, reason=type(error).__name__)
                await asyncio.sleep(_PRESENCE_S / 3)
        except asyncio.CancelledError:
            leaving = asyncio.ensure_future(
                self._control.send(record.owner, Message(op="left", run_id=record.run_id, reader=reader))
            )
            await asyncio.wait([leaving], timeout=_PRESENCE_S / 3)
            if leaving.done() and leaving.exception() is not None:
                _log.info("reader.leaving_not_told", run_id=record.run_id)
            raise


def _project(record: RunRecord) -> str:
    return project_name(record.user_id, record.project_id)


async def _platform_answer(asked: Awaitable[T]) -> T:
    """Await a call of the platform. Raises ContractError `sandbox_unavailable` for platform errors."""
    try:
        return await asked
    except PLATFORM_ERRORS as error:
        _log.error("platform.failed", reason=type(error).__name__, detail=str(error)[:300])
        raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, "the platform does not answer: try again soon") from None

"""One run as its owner executes it: a task that has a sandbox, terminates it on every path, and then tells the end.

Responses to clients only read the run. So a client that leaves, or a response that is closed late or never, changes
nothing about who cleans up.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import structlog

from modal_app import actions
from modal_app.contract.errors import ContractError, ErrorCode, internal_error
from modal_app.contract.events import Phase, TerminalEvent, Timings
from modal_app.contract.proof import Bundle
from modal_app.contract.requests import PrewarmRequest, Request
from modal_app.endpoint_settings import Settings
from modal_app.model.access import ModelAccess, host_of
from modal_app.runs.breaker import Breaker
from modal_app.runs.cost import estimate
from modal_app.runs.journal import Journal
from modal_app.runs.leases import Lease, Leases, ProjectBusyError, WarmSandbox
from modal_app.runs.outcome import Outcome
from modal_app.runs.own_time import OwnTime
from modal_app.runs.readers import Readers
from modal_app.runs.run_records import RunRecord
from modal_app.runs.starts import Starts
from modal_app.sandboxes.fleet import Fleet, Platform, SandboxOwner, expires_at_ms, finish
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS
from modal_app.sandboxes.project_sandbox import ProjectSandbox

_log = structlog.get_logger(__name__)

_LEASE_POLL_S = 0.25
_MORE_SANDBOXES = 1  # that a run asks for when one runs no command


@dataclass(frozen=True)
class RunResources:
    """What all runs of a container share: the deployed app's parts, the settings, and the shared state's services."""

    platform: Platform
    settings: Settings
    fleet: Fleet
    leases: Leases
    breaker: Breaker
    model: ModelAccess
    starts: Starts


class Run:
    """One run of this container.

    `lease` is the claim on its project, None when the run still has to wait for it or needs none. `warm` is the
    prewarmed sandbox that came with the lease. `failures` is how often the project's sandbox has failed to start in a
    row. `container_start_ms` is how long this container took to start, told by its first run only.
    """

    def __init__(
        self,
        record: RunRecord,
        request: Request,
        journal: Journal,
        resources: RunResources,
        *,
        lease: Lease | None = None,
        warm: WarmSandbox | None = None,
        failures: int = 0,
        container_start_ms: int | None = None,
    ) -> None:
        self.record = record
        self.journal = journal
        self.readers = Readers(resources.settings.timeouts.disconnect_grace_s, self.cancel)
        self.request = request
        self._resources = resources
        self._lease = lease
        self._warm = warm
        self._failures = failures
        self.cold_start = container_start_ms is not None
        self._outcome = Outcome()
        if container_start_ms is not None:
            self._outcome.timings["container_start_ms"] = container_start_ms
        self._work: asyncio.Task[None] | None = None
        self._cancelled = False
        self._abandoned = False
        self._dead_sandboxes = 0
        self._time = OwnTime()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.record.run_id

    def cancel(self) -> None:
        """End the run soon, with `error: cancelled`. Idempotent; does nothing once the run's work has ended."""
        self._cancelled = True
        if self._work is not None:
            self._work.cancel()

    def abandon(self) -> None:
        """End the run soon because this container shuts down, or no longer owns the run. Idempotent."""
        self._abandoned = True
        if self._work is not None:
            self._work.cancel()

    async def live(self) -> TerminalEvent | None:
        """Execute the run and return its terminal event once that is in the log.

        Returns None when the log was lost: another container then closes the run. Every failure of the run becomes its
        terminal event.
        """
        self.journal.start(self.abandon)
        outcome = self._outcome
        try:
            self.journal.status(Phase.ACCEPTED, "the run is accepted", cold_start=self.cold_start)
            self._work = asyncio.create_task(self._perform())
            if self._cancelled or self._abandoned:
                self._work.cancel()
            over_at = self._time.now() + self._limit_s()
            while not self._work.done() and (left_s := over_at - self._time.now()) > 0:
                await asyncio.wait([self._work], timeout=left_s)
            if not self._work.done():
                outcome.error = ContractError(ErrorCode.RUN_TIMEOUT, "the run did not end in its time")
                self._work.cancel()
                await asyncio.wait([self._work])
            outcome.settle(self._work, cancelled=self._cancelled and not self._abandoned)
        except Exception:  # noqa: BLE001  # the boundary: a broken run still has a terminal event
            _log.exception("run.broken")
            outcome.error = internal_error()
        finally:
            self.readers.close()
            outcome.tell(self.journal)
        return await self.journal.finish()

    def bundle(self, terminal: TerminalEvent) -> Bundle:
        """What the archive says of the run."""
        outcome = self._outcome
        return self.record.bundle(
            terminal,
            self.journal.spool.facts,
            closed_by="owner",
            cold_start=self.cold_start,
            reason=outcome.last_words if terminal.outcome == ErrorCode.PROCESS_FAILED else "",
            process=outcome.process,
            sandbox=outcome.sandbox,
            commit=outcome.commit,
            timings=Timings(**outcome.timings),
            cost=estimate(outcome.sandbox_s) if outcome.sandbox_s else None,
        )

    @property
    def _note_s(self) -> float:
        """How long a write to the shared state may take that does not decide about the run."""
        return self._resources.settings.timeouts.lease_s / 2

    def _limit_s(self) -> float:
        waits = self.request.wait_s if self._lease is None else 0
        return self._resources.settings.timeouts.sandbox_s + waits

    async def _perform(self) -> None:
        if not actions.needs_sandbox(self.request):
            self.journal.status(Phase.RUNNING, "reading what is committed")
            self._outcome.take(await actions.read_committed(self.request, self._resources.platform))
            return
        owned = SandboxOwner(self.run_id, self.record.user_id, self.record.project_id)
        lease = self._lease or await self._wait_for_the_project(owned.name)
        pointing = asyncio.ensure_future(self._note(self._resources.leases.point(owned.name, lease)))
        left: WarmSandbox | None = None
        try:
            if isinstance(self.request, PrewarmRequest):
                left = await self._prewarm(owned)
            else:
                await self._execute(owned)
        finally:
            releasing = self._release(owned.name, lease, left)
            await finish(asyncio.ensure_future(_all(pointing, releasing)))

    async def _wait_for_the_project(self, project: str) -> Lease:
        self.journal.status(Phase.QUEUED, "another run holds the project")
        deadline = time.monotonic() + self.request.wait_s
        with self._outcome.timed("queue_ms"):
            while True:
                try:
                    claiming = asyncio.ensure_future(self._resources.leases.claim(project, self.record))
                    lease, self._warm = await asyncio.shield(claiming)
                    return lease
                except ProjectBusyError:
                    if time.monotonic() >= deadline:
                        raise
                except PLATFORM_ERRORS as error:
                    _log.warning("run.project_not_claimed", reason=type(error).__name__)
                    if time.monotonic() >= deadline:
                        message = "whether the project is free cannot be found out (the platform fails): try again soon"
                        raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, message) from None
                except asyncio.CancelledError:
                    await asyncio.wait([claiming], timeout=self._note_s)
                    if not claiming.done():
                        claiming.cancel()  # the lease that it may have got is over as soon as the run is
                    elif not claiming.cancelled() and claiming.exception() is None:
                        await self._release(project, claiming.result()[0], None)
                    raise
                await asyncio.sleep(_LEASE_POLL_S)

    async def _execute(self, owned: SandboxOwner) -> None:
        journal, outcome = self.journal, self._outcome
        timeouts = self._resources.settings.timeouts
        grant: actions.ModelGrant | None = None
        if actions.needs_model(self.request):
            grant = await self._resources.model.grant(
                self.run_id, lasts_s=timeouts.turn_s + timeouts.sandbox_s, replay=self.request.replay
            )
        held: ProjectSandbox | None = None
        ended = time.monotonic()
        try:
            async with self._sandbox(owned, reach=host_of(grant) if grant is not None else None) as held:
                output = actions.Output(journal.stream, max_bytes=self._resources.settings.max_output_bytes)
                journal.status(Phase.RUNNING, "the job is running")
                started_ms = journal.elapsed_ms
                try:
                    with self._outcome.timed("run_ms"), held.telling(partial(journal.status, Phase.RUNNING)):
                        performed = await actions.perform(
                            self.request,
                            held,
                            output,
                            grant=grant,
                            timeouts=timeouts,
                            spent=outcome.spent,
                            retried=journal.retry,
                        )
                    outcome.take(performed)
                    journal.status(Phase.COMMITTING, "the files are being committed")
                    with self._outcome.timed("commit_ms"):
                        await held.commit()
                finally:
                    outcome.commit = held.committed
                    outcome.last_words = output.last_words
                    if journal.first_output_ms is not None:
                        outcome.timings["first_byte_ms"] = journal.first_output_ms - started_ms
                    journal.status(Phase.TERMINATING, "the sandbox is being terminated")
                    ended = time.monotonic()
        finally:
            if held is not None:
                outcome.timings["terminate_ms"] = int((time.monotonic() - ended) * 1000)
                outcome.sandbox, outcome.process = held.facts, held.process
                _log.info("sandbox.end", sandbox_id=held.id, terminated=held.terminated)

    @asynccontextmanager
    async def _sandbox(self, owned: SandboxOwner, *, reach: str | None) -> AsyncIterator[ProjectSandbox]:
        """The project's sandbox, proved alive: the prewarmed one if it can reach the same host, else a new one."""
        started = self._time.now()
        try:
            if self._warm is not None and self._warm.reach == reach:
                self._starting()
                async with self._resources.fleet.adopt(self._warm.sandbox_id, owned) as held:
                    if held is not None:
                        self._outcome.timings["sandbox_ready_ms"] = int((self._time.now() - started) * 1000)
                        self._ready(held)
                        yield held
                        return
            async with self._new(owned, reach=reach) as new:
                yield new
        finally:
            self._outcome.sandbox_s = self._time.now() - started

    def _starting(self) -> None:
        if self.journal.phase is not Phase.SANDBOX_STARTING:
            self.journal.status(Phase.SANDBOX_STARTING, "the sandbox is starting")

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Have a turn to start a sandbox, for which the run waits as `queued`.

        Raises ContractError `over_capacity` when it does not come within `turn_s` seconds.
        """
        starts, limit_s = self._resources.starts, self._resources.settings.timeouts.turn_s
        if (ahead := starts.ahead) and self.journal.phase is not Phase.SANDBOX_STARTING:
            runs = "sandbox is" if ahead == 1 else "sandboxes are"
            self.journal.status(Phase.QUEUED, f"{ahead} {runs} to start before this run's")
        async with AsyncExitStack() as stack:
            with self._time.standing_still(), self._outcome.timed("queue_ms", more=True) if ahead else nullcontext():
                try:
                    async with asyncio.timeout(limit_s):
                        await stack.enter_async_context(starts.turn())
                except TimeoutError:
                    message = f"too many sandboxes start at once: this run's turn did not come within {limit_s} s"
                    raise ContractError(ErrorCode.OVER_CAPACITY, message) from None
            self._starting()
            yield

    @asynccontextmanager
    async def _new(
        self, owned: SandboxOwner, *, prewarm: bool = False, reach: str | None = None
    ) -> AsyncIterator[ProjectSandbox]:
        breaker = self._resources.breaker
        try:
            async with AsyncExitStack() as stack:
                async with self._turn():
                    held = await self._proved(stack, owned, prewarm=prewarm, reach=reach)
                if self._failures:
                    await self._note(breaker.worked(owned.name))
                self._ready(held)
                yield held
        except ContractError as error:
            if error.code is ErrorCode.SANDBOX_UNAVAILABLE:
                await self._note(breaker.failed(owned.name))
            raise

    async def _proved(
        self, stack: AsyncExitStack, owned: SandboxOwner, *, prewarm: bool, reach: str | None
    ) -> ProjectSandbox:
        """A new sandbox that has run a command, terminated when the stack is closed.

        One that runs none is terminated, and another one is asked for: nothing of the job has run yet.
        """
        fleet = self._resources.fleet
        while True:
            started = time.monotonic()
            async with AsyncExitStack() as trial:
                held = await trial.enter_async_context(fleet.create(owned, prewarm=prewarm, reach=reach))
                self._outcome.timings["sandbox_create_ms"] = int((time.monotonic() - started) * 1000)
                try:
                    with self._outcome.timed("sandbox_ready_ms"):
                        await fleet.prove(held)
                except ContractError:
                    self._dead_sandboxes += 1
                    if self._dead_sandboxes > _MORE_SANDBOXES:
                        raise
                else:
                    stack.push_async_exit(trial.pop_all())
                    return held

    def _ready(self, held: ProjectSandbox) -> None:
        timings = {name: ms for name, ms in self._outcome.timings.items() if name.startswith(("sandbox", "queue"))}
        locks, late_s = held.stale_locks, round(self.journal.elapsed_ms / 1000 - timings.get("queue_ms", 0) / 1000, 1)
        budget_s = self._resources.settings.timeouts.cold_start_s
        said = [
            "the sandbox was ready" if held.facts.warm else "the sandbox is ready",
            *(["the first one ran no command"] * bool(self._dead_sandboxes)),
            *([f"this took {late_s:g} s, over the budget of {budget_s} s"] * (late_s > budget_s)),
            *([str(locks)] * bool(locks.removed)),
        ]
        if late_s > budget_s:
            _log.warning("sandbox.late", sandbox_id=held.id, took_s=late_s, budget_s=budget_s, **timings)
        self.journal.status(Phase.SANDBOX_READY, "; ".join(said), timings=Timings(**timings))
        _log.info("sandbox.start", sandbox_id=held.id, warm=held.facts.warm, stale_locks=locks.removed, **timings)

    async def _prewarm(self, owned: SandboxOwner) -> WarmSandbox:
        """Create the project's sandbox and leave it for the next run, unless one that can reach the same host waits."""
        assert isinstance(self.request, PrewarmRequest)
        reach = host_of(await self._resources.model.grant(self.run_id, lasts_s=0)) if self.request.with_model else None
        if self._warm is not None and self._warm.reach == reach:
            self._starting()
            self._outcome.result = {"sandbox_id": self._warm.sandbox_id, "until_ms": self._warm.until_ms, "new": False}
            self.journal.status(Phase.SANDBOX_READY, "a sandbox waits already")
            self.journal.status(Phase.RUNNING, "it waits for the project's next run")
            return self._warm
        async with self._new(owned, prewarm=True, reach=reach) as held:
            until_ms = expires_at_ms(self._resources.settings.timeouts)
            warm = WarmSandbox(sandbox_id=held.id, until_ms=until_ms, reach=reach)
            self._outcome.sandbox = held.facts
            self._outcome.result = {"sandbox_id": warm.sandbox_id, "until_ms": warm.until_ms, "new": True}
            self.journal.status(Phase.RUNNING, "it waits for the project's next run")
        return warm

    async def _release(self, project: str, lease: Lease, warm: WarmSandbox | None) -> None:
        await self._note(self._resources.leases.release(project, lease, warm=warm))

    async def _note(self, noting: Awaitable[None]) -> None:
        """Await a write to the shared state; one that fails or takes too long is logged and does not fail the run."""
        try:
            async with asyncio.timeout(self._note_s):
                await noting
        except PLATFORM_ERRORS as error:
            _log.warning("run.not_noted", reason=type(error).__name__)


async def _all(*works: Awaitable[None]) -> None:
    await asyncio.gather(*works)

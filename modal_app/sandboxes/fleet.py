"""The only module that creates and looks up `modal.Sandbox`: a project's sandbox, new or made ahead by a `prewarm`.

A sandbox sees its project's sub-path of the project volume at /workspace and, read-only, the global volume at /global.
Its name follows from the project, and its tags name the run, before it exists: whoever finds it knows whose it is.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import modal
import modal.exception
import structlog

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.endpoint_settings import Timeouts
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS
from modal_app.sandboxes.project_sandbox import GLOBAL, WORKSPACE, ProjectSandbox, see_it_end
from modal_app.sandboxes.read_back import ReadBack

_log = structlog.get_logger(__name__)

RUN_TAG = "run_id"
CANCELLED_TAG = "cancelled"
# Waits for its first byte as long as its second argument says, and from then on for every next one as its first says.
_WATCHDOG = """
import os, select, sys
lease, patience = float(sys.argv[1]), float(sys.argv[2])
while True:
    ready, _, _ = select.select([0], [], [], patience)
    if not ready or not os.read(0, 4096):
        sys.exit(0)
    patience = lease
"""
_LIST_S = 20.0


@dataclass(frozen=True)
class Platform:
    """What the deployed app has: itself, the sandboxes' image, the two volumes."""

    app: modal.App
    image: modal.Image
    projects: modal.Volume
    shared: modal.Volume


@dataclass(frozen=True)
class SandboxOwner:
    """Whose sandbox it is: one run of one project."""

    run_id: str
    user_id: str
    project_id: str

    @property
    def name(self) -> str:
        """The one name that the project's sandbox may have: the platform refuses a second one of the same name."""
        return project_name(self.user_id, self.project_id)

    @property
    def root(self) -> str:
        """Where the project is in the project volume. The ids were checked when the request was parsed."""
        return sub_path(self.user_id, self.project_id)


def project_name(user_id: str, project_id: str) -> str:
    """A name for a project that tells nothing of its ids and fits where the platform wants names."""
    return "p-" + hashlib.sha256(f"{user_id}/{project_id}".encode()).hexdigest()[:32]


def sub_path(user_id: str, project_id: str) -> str:
    """Where a project is in the project volume."""
    return f"/projects/{user_id}/{project_id}"


class Fleet:
    """Makes, finds and ends sandboxes."""

    def __init__(self, platform: Platform, timeouts: Timeouts) -> None:
        self._platform = platform
        self._timeouts = timeouts

    @asynccontextmanager
    async def create(
        self, owned: SandboxOwner, *, prewarm: bool = False, reach: str | None = None
    ) -> AsyncIterator[ProjectSandbox]:
        """A new sandbox, terminated on every way out; with `prewarm`, on every way out but a good one.

        `reach` is the one host that it can reach; without it, it has no network.
        The holder of the project's lease alone calls this, so one of the same name is a dead run's and makes way.
        Raises ContractError `sandbox_unavailable`.
        """
        creating = asyncio.ensure_future(self._create(owned, prewarm=prewarm, reach=reach))
        try:
            # Shielded: a creation that is cut off could leave a sandbox that nobody knows.
            sandbox = await asyncio.shield(creating)
        except asyncio.CancelledError:
            await self._abandon(creating, owned)
            raise
        held = self._held(sandbox, owned)
        kept = False
        try:
            if not prewarm:
                held.keep()
            yield held
            kept = prewarm
        finally:
            if not kept:
                await finish(asyncio.ensure_future(held.terminate()))

    @asynccontextmanager
    async def adopt(self, sandbox_id: str, owned: SandboxOwner) -> AsyncIterator[ProjectSandbox | None]:
        """A sandbox that was made ahead, terminated on every way out; None when it is no longer there."""
        held: ProjectSandbox | None = None
        try:
            held = await self._adopt(sandbox_id, owned)
            yield held
        finally:
            if held is not None:
                await finish(asyncio.ensure_future(held.terminate()))

    async def prove(self, held: ProjectSandbox) -> None:
        """See that a sandbox is alive. Raises ContractError `sandbox_unavailable`."""
        try:
            async with asyncio.timeout(self._timeouts.start_s):
                await held.prove_alive()
        except (TimeoutError, ContractError) as error:
            _log.warning("sandbox.not_alive", sandbox_id=held.id, reason=str(error) or "timeout")
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, "the sandbox did not come up") from None

    async def end_run(self, run_id: str, *, cancelled: bool = False) -> str | None:
        """End every sandbox of a run, and return the id of one; None when there is none. Platform errors are raised."""
        found = None
        async with asyncio.timeout(2 * self._timeouts.terminate_s):
            async for sandbox in modal.Sandbox.list.aio(app_id=self._platform.app.app_id, tags={RUN_TAG: run_id}):
                found = str(sandbox.object_id)
                if cancelled:
                    await sandbox.set_tags.aio({RUN_TAG: run_id, CANCELLED_TAG: "true"})
                await self.end(sandbox)
        return found

    async def all(self) -> list[tuple[modal.Sandbox, dict[str, str]]]:
        """Every live sandbox of the app with its tags. Platform errors are raised."""
        found = []
        async with asyncio.timeout(_LIST_S):
            async for sandbox in modal.Sandbox.list.aio(app_id=self._platform.app.app_id):
                with suppress(modal.exception.NotFoundError):  # it has ended meanwhile
                    found.append((sandbox, await sandbox.get_tags.aio()))
        return found

    async def end(self, sandbox: modal.Sandbox) -> None:
        """Terminate a sandbox and see that it has ended. Raises TimeoutError when that is not confirmed."""
        if not await see_it_end(sandbox, within_s=self._timeouts.terminate_s):
            raise TimeoutError("the sandbox's end is not confirmed")

    def _held(self, sandbox: modal.Sandbox, owned: SandboxOwner, *, warm: bool = False) -> ProjectSandbox:
        return ProjectSandbox(sandbox, self._timeouts, ReadBack(self._platform.projects, owned.root), warm=warm)

    async def _create(self, owned: SandboxOwner, *, prewarm: bool, reach: str | None) -> modal.Sandbox:
        try:
            async with asyncio.timeout(self._timeouts.start_s):
                try:
                    return await self._ask_for_one(owned, prewarm=prewarm, reach=reach)
                except modal.exception.AlreadyExistsError:
                    await self._make_way(owned)
                    return await self._ask_for_one(owned, prewarm=prewarm, reach=reach)
        except PLATFORM_ERRORS as error:
            _log.error("sandbox.create_failed", reason=type(error).__name__, detail=str(error)[:500])
            await self._end_nameless(owned)
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, "no sandbox could be started") from None

    async def _ask_for_one(self, owned: SandboxOwner, *, prewarm: bool, reach: str | None) -> modal.Sandbox:
        timeouts = self._timeouts
        return await modal.Sandbox.create.aio(
            "python3",
            "-c",
            _WATCHDOG,
            str(timeouts.lease_s),
            str(timeouts.prewarm_s if prewarm else timeouts.lease_s),
            app=self._platform.app,
            name=owned.name,
            tags={RUN_TAG: owned.run_id},
            image=self._platform.image,
            timeout=timeouts.sandbox_s + (timeouts.prewarm_s if prewarm else 0),
            block_network=reach is None,
            outbound_domain_allowlist=None if reach is None else [reach],
            outbound_cidr_allowlist=None if reach is None else [],
            volumes={
                WORKSPACE: self._platform.projects.with_mount_options(sub_path=owned.root),
                GLOBAL: self._platform.shared.with_mount_options(read_only=True),
            },
        )

    async def _make_way(self, owned: SandboxOwner) -> None:
        """End the sandbox that has the project's name: it is of a run that has lost the project."""
        with suppress(modal.exception.NotFoundError):
            old = await modal.Sandbox.from_name.aio(self._platform.app.name or "", owned.name)
            _log.warning("sandbox.in_the_way", sandbox_id=old.object_id)
            await self.end(old)

    async def _end_nameless(self, owned: SandboxOwner) -> None:
        """End what a creation that failed may have left: its answer may be what was lost."""
        try:
            await self.end_run(owned.run_id)
        except PLATFORM_ERRORS as error:
            _log.warning("sandbox.cleanup_failed", run_id=owned.run_id, reason=type(error).__name__)

    async def _adopt(self, sandbox_id: str, owned: SandboxOwner) -> ProjectSandbox | None:
        try:
            async with asyncio.timeout(self._timeouts.start_s):
                sandbox = await modal.Sandbox.from_id.aio(sandbox_id)
                await sandbox.set_tags.aio({RUN_TAG: owned.run_id})
                held = self._held(sandbox, owned, warm=True)
                held.keep()
        except PLATFORM_ERRORS as error:
            _log.info("sandbox.not_warm_any_more", sandbox_id=sandbox_id, reason=type(error).__name__)
            return None
        try:
            async with asyncio.timeout(self._timeouts.start_s):
                await held.refresh()
                await held.prove_alive()
        except (*PLATFORM_ERRORS, ContractError) as error:
            _log.info("sandbox.not_warm_any_more", sandbox_id=sandbox_id, reason=type(error).__name__)
            await finish(asyncio.ensure_future(held.terminate()))
            return None
        except BaseException:
            await finish(asyncio.ensure_future(held.terminate()))
            raise
        return held

    async def _abandon(self, creating: "asyncio.Future[modal.Sandbox]", owned: SandboxOwner) -> None:
        async def end() -> None:
            try:
                sandbox = await creating
            except ContractError:
                return
            await self._held(sandbox, owned).terminate()

        await finish(asyncio.ensure_future(end()))


async def finish(task: "asyncio.Future[None]") -> None:
    """Wait for a cleanup that has a deadline of its own, however often the waiter is cancelled meanwhile."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                break
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


def expires_at_ms(timeouts: Timeouts) -> int:
    """When a sandbox made ahead now ends by itself, in Unix milliseconds."""
    return int((time.time() + timeouts.prewarm_s) * 1000)

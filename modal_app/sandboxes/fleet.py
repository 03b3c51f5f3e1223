"""The only module that creates and looks up `modal.Sandbox`: a project's sandbox, new or prewarmed.

A sandbox sees its project's sub-path of the project volume at /workspace and, read-only, the global volume at /global.
Its name is derived from the project, and its tag names the run. Both are part of the call that creates it, so a sandbox
that is found later can always be attributed to its run.
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
from modal_app.endpoint_settings import DEFAULT_MEMORY_MB, Timeouts
from modal_app.sandboxes.output_chunks import Pace
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS
from modal_app.sandboxes.project_sandbox import GLOBAL, WORKSPACE, ProjectSandbox, see_it_end
from modal_app.sandboxes.read_back import ReadBack

_log = structlog.get_logger(__name__)

RUN_TAG = "run_id"
CANCELLED_TAG = "cancelled"
# The sandbox's entrypoint: exits, and so ends the sandbox, when no byte comes on stdin in time. The time in seconds is
# its second argument for the first byte, and its first argument for every byte after that. An interpreter would take
# longer to start, and the run's first command starts meanwhile. When the time is over it looks once more: if it got no
# processor for so long, a byte has come in time and waits.
WATCHDOG = """
patience=$2
while [ -n "$(timeout "$patience" head -c 1 || timeout 1 head -c 1)" ]; do patience=$1; done
"""
_LIST_S = 20.0
_TAGS_AT_ONCE = 8
_REQUESTED_MB = 128  # the platform's default; what is used beyond it is paid for as it is used


@dataclass(frozen=True)
class Platform:
    """The deployed app, the image of its sandboxes, the volume of projects and the global volume (`shared`).

    `memory_mb` is what a sandbox may use, in MiB.
    """

    app: modal.App
    image: modal.Image
    projects: modal.Volume
    shared: modal.Volume
    memory_mb: int = DEFAULT_MEMORY_MB


@dataclass(frozen=True)
class SandboxOwner:
    """The run and the project that a sandbox belongs to."""

    run_id: str
    user_id: str
    project_id: str

    @property
    def name(self) -> str:
        """The name of the project's sandbox; the platform refuses a second live sandbox of the same name."""
        return project_name(self.user_id, self.project_id)

    @property
    def root(self) -> str:
        """The project's directory in the project volume. The ids were checked when the request was parsed."""
        return sub_path(self.user_id, self.project_id)


def project_name(user_id: str, project_id: str) -> str:
    """A name for a project, 34 characters that the platform takes as a name and that do not reveal the ids."""
    return "p-" + hashlib.sha256(f"{user_id}/{project_id}".encode()).hexdigest()[:32]


def sub_path(user_id: str, project_id: str) -> str:
    """A project's directory in the project volume."""
    return f"/projects/{user_id}/{project_id}"


class Fleet:
    """Creates, finds and terminates the sandboxes of the app."""

    def __init__(self, platform: Platform, timeouts: Timeouts) -> None:
        self._platform = platform
        self._timeouts = timeouts
        self._pace = Pace()

    @asynccontextmanager
    async def create(
        self, owned: SandboxOwner, *, prewarm: bool = False, reach: str | None = None
    ) -> AsyncIterator[ProjectSandbox]:
        """A new sandbox, terminated however the block ends. With `prewarm`, one whose block ends well is kept.

        `reach` is the one host that it can connect to; without it, it has no network.
        Only the holder of the project's lease may call this: a sandbox that has the project's name belongs to a dead
        run, and is terminated first.
        Raises ContractError `sandbox_unavailable`.
        """
        creating = asyncio.ensure_future(self._create(owned, prewarm=prewarm, reach=reach))
        try:
            # Shielded: a creation that is cancelled could leave a sandbox of which nobody knows the id.
            sandbox = await asyncio.shield(creating)
        except asyncio.CancelledError:
            await self._abandon(creating, owned)
            raise
        held = self._held(sandbox, owned)
        kept = False
        try:
            if not prewarm:
                held.keep(at_once=False)
            yield held
            kept = prewarm
        finally:
            if not kept:
                await finish(asyncio.ensure_future(held.terminate()))

    @asynccontextmanager
    async def adopt(self, sandbox_id: str, owned: SandboxOwner) -> AsyncIterator[ProjectSandbox | None]:
        """A prewarmed sandbox, tagged with its new run and terminated however the block ends; None when it is gone."""
        held: ProjectSandbox | None = None
        try:
            held = await self._adopt(sandbox_id, owned)
            yield held
        finally:
            if held is not None:
                await finish(asyncio.ensure_future(held.terminate()))

    async def prove(self, held: ProjectSandbox) -> None:
        """Run a command in the sandbox, within `start_s` seconds. Raises ContractError `sandbox_unavailable`."""
        try:
            async with asyncio.timeout(self._timeouts.start_s):
                await held.prove_alive()
        except (TimeoutError, ContractError) as error:
            _log.warning("sandbox.not_alive", sandbox_id=held.id, reason=str(error) or "timeout")
            late = f"it did not run its first command within {self._timeouts.start_s} s; try again"
            cause = error.message if isinstance(error, ContractError) else late
            message = f"the sandbox was created but cannot be used: {cause}"
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, message) from None

    async def end_run(self, run_id: str, *, cancelled: bool = False) -> str | None:
        """Terminate every sandbox of a run; returns the id of one, None if there was none. Platform errors are raised.

        With `cancelled`, sandboxes are tagged first, so that the run's owner sees why they end.
        """
        found = None
        async with asyncio.timeout(2 * self._timeouts.terminate_s):
            async for sandbox in modal.Sandbox.list.aio(app_id=self._platform.app.app_id, tags={RUN_TAG: run_id}):
                found = str(sandbox.object_id)
                if cancelled:
                    await sandbox.set_tags.aio({RUN_TAG: run_id, CANCELLED_TAG: "true"})
                await self.end(sandbox)
        return found

    async def all(self) -> list[tuple[modal.Sandbox, dict[str, str]]]:
        """Every live sandbox of the app, each with its tags. Platform errors are raised."""
        limit = asyncio.Semaphore(_TAGS_AT_ONCE)

        async def tagged(sandbox: modal.Sandbox) -> list[tuple[modal.Sandbox, dict[str, str]]]:
            async with limit, asyncio.timeout(_LIST_S):
                with suppress(modal.exception.NotFoundError):  # it has ended since it was listed
                    return [(sandbox, await sandbox.get_tags.aio())]
            return []

        async with asyncio.timeout(_LIST_S):
            listed = [sandbox async for sandbox in modal.Sandbox.list.aio(app_id=self._platform.app.app_id)]
        return [one for found in await asyncio.gather(*map(tagged, listed)) for one in found]

    async def end(self, sandbox: modal.Sandbox) -> None:
        """Terminate a sandbox; raises TimeoutError when its end is not confirmed within `terminate_s` seconds."""
        if not await see_it_end(sandbox, within_s=self._timeouts.terminate_s):
            raise TimeoutError(f"the end of sandbox {sandbox.object_id} is not confirmed")

    def _held(self, sandbox: modal.Sandbox, owned: SandboxOwner, *, warm: bool = False) -> ProjectSandbox:
        read_back = ReadBack(self._platform.projects, owned.root)
        return ProjectSandbox(
            sandbox, self._timeouts, read_back, pace=self._pace, warm=warm, memory_mb=self._platform.memory_mb
        )

    async def _create(self, owned: SandboxOwner, *, prewarm: bool, reach: str | None) -> modal.Sandbox:
        try:
            async with asyncio.timeout(self._timeouts.start_s):
                try:
                    return await self._create_sandbox(owned, prewarm=prewarm, reach=reach)
                except modal.exception.AlreadyExistsError:
                    await self._end_namesake(owned)
                    return await self._create_sandbox(owned, prewarm=prewarm, reach=reach)
        except PLATFORM_ERRORS as error:
            _log.error("sandbox.create_failed", reason=type(error).__name__, detail=str(error)[:500])
            await self._end_leftovers(owned)
            message = f"no sandbox could be started: {self._why_not_created(error)}"
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, message) from None

    def _why_not_created(self, error: Exception) -> str:
        """The cause for the caller, by the kind of the platform's error alone: its text may hold anything."""
        match error:
            case TimeoutError() | modal.exception.TimeoutError():
                return f"the platform did not create one within {self._timeouts.start_s} s; try again"
            case modal.exception.ResourceExhaustedError():
                return "the platform refuses more of them for now (rate limit or budget); try again later"
            case modal.exception.AlreadyExistsError():
                return "an older one of this project has not ended yet; try again"
            case modal.exception.ConnectionError() | modal.exception.ServiceError() | OSError():
                return "the platform cannot be reached; try again"
            case _:
                return f"the platform answered {type(error).__name__}; the endpoint's log has the details"

    async def _create_sandbox(self, owned: SandboxOwner, *, prewarm: bool, reach: str | None) -> modal.Sandbox:
        timeouts = self._timeouts
        return await modal.Sandbox.create.aio(
            "sh",
            "-c",
            WATCHDOG,
            "sh",
            str(timeouts.lease_s),
            str(timeouts.prewarm_s if prewarm else timeouts.lease_s),
            app=self._platform.app,
            name=owned.name,
            tags={RUN_TAG: owned.run_id},
            image=self._platform.image,
            timeout=timeouts.sandbox_s + (timeouts.prewarm_s if prewarm else 0),
            memory=(_REQUESTED_MB, self._platform.memory_mb),
            block_network=reach is None,
            outbound_domain_allowlist=None if reach is None else [reach],
            outbound_cidr_allowlist=None if reach is None else [],
            volumes={
                WORKSPACE: self._platform.projects.with_mount_options(sub_path=owned.root),
                GLOBAL: self._platform.shared.with_mount_options(read_only=True),
            },
        )

    async def _end_namesake(self, owned: SandboxOwner) -> None:
        """Terminate the sandbox that has the project's name: it belongs to a run that no longer holds the project."""
        with suppress(modal.exception.NotFoundError):
            old = await modal.Sandbox.from_name.aio(self._platform.app.name or "", owned.name)
            _log.warning("sandbox.in_the_way", sandbox_id=old.object_id)
            await self.end(old)

    async def _end_leftovers(self, owned: SandboxOwner) -> None:
        """Terminate sandboxes that a failed creation may have left: perhaps only its answer was lost."""
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
                held.keep(at_once=True)
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
    """Wait for a cleanup task to end, even if the waiter is cancelled meanwhile; then raises CancelledError.

    The task must have a deadline of its own.
    """
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
    """The time, in Unix milliseconds, at which a sandbox that is prewarmed now ends by itself."""
    return int((time.time() + timeouts.prewarm_s) * 1000)

"""The only module that calls `modal.Sandbox`: one project's sandbox, from its creation to its confirmed end.

A sandbox sees its project's sub-path of the project volume at /workspace and, read-only, the global volume at /global.
Its entrypoint is a watchdog on stdin: when the run that owns the sandbox falls silent, whatever the reason, it exits
and the sandbox ends with it. Jobs never run as uid 0.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import modal
import modal.exception
import structlog
from grpclib.exceptions import GRPCError, StreamTerminatedError

from modal_app.chunks import pieces
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import Commit, SandboxFacts
from modal_app.settings import Timeouts

_log = structlog.get_logger(__name__)

WORKSPACE = "/workspace"
GLOBAL = "/global"
JOB_UID = 1000
_PROBE_S = 20
_SIGNALLED = 128  # exit codes from here on tell of a signal
# Modal starts sandboxes as root and has no setting for it: privileges are dropped for each command.
_AS_JOB = (
    "setpriv",
    f"--reuid={JOB_UID}",
    f"--regid={JOB_UID}",
    "--clear-groups",
    "--no-new-privs",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--",
)
_WATCHDOG = """
import os, select, sys
while True:
    ready, _, _ = select.select([0], [], [], float(sys.argv[1]))
    if not ready or not os.read(0, 4096):
        sys.exit(0)
"""
_ENV = {"HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108  # a path in the sandbox

_STDIN_CHUNK_BYTES = 1024 * 1024
_PLATFORM_ERRORS = (modal.exception.Error, GRPCError, StreamTerminatedError, OSError, TimeoutError)

OnOutput = Callable[[str, bytes], Awaitable[None]]


async def _ignore(channel: str, data: bytes) -> None:
    """Drop output that nobody asked for."""


@dataclass(frozen=True)
class Platform:
    """What the deployed app has: itself, the sandboxes' image, the two volumes."""

    app: modal.App
    image: modal.Image
    projects: modal.Volume
    shared: modal.Volume


class Job(Protocol):
    """What an action may do with its sandbox."""

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        on_output: OnOutput = _ignore,
        timeout_s: float | None = None,
    ) -> int:
        """Run a command in the workspace and return its exit code."""
        ...


def sub_path(user_id: str, project_id: str) -> str:
    """Where a project is in the project volume. The ids were checked when the request was parsed."""
    return f"/projects/{user_id}/{project_id}"


def sandbox_name(user_id: str, project_id: str) -> str:
    """The one name that a project's sandbox may have: the platform refuses a second one of the same name."""
    return "p-" + hashlib.sha256(f"{user_id}/{project_id}".encode()).hexdigest()[:32]


class ProjectSandbox:
    """A live sandbox. Commands run as an unprivileged user, in /workspace."""

    def __init__(self, sandbox: modal.Sandbox, timeouts: Timeouts) -> None:
        self._sandbox = sandbox
        self._timeouts = timeouts
        self._prefix: tuple[str, ...] = ()
        self._uid = 0
        self._keeper: asyncio.Task[None] | None = None
        self.terminated = False

    @property
    def id(self) -> str:
        """The platform's id."""
        return str(self._sandbox.object_id)

    @property
    def facts(self) -> SandboxFacts:
        """What the run tells about it."""
        return SandboxFacts(id=self.id, uid=self._uid, terminated=self.terminated)

    async def prove_alive(self) -> None:
        """Run a command with a deadline before anybody relies on the sandbox, and learn its user."""
        self._keeper = asyncio.create_task(self._keep())
        uid = await self._uid_of(())
        if uid == 0:
            self._prefix = _AS_JOB
            await self._own_workspace()
            uid = await self._uid_of(self._prefix)
        if uid == 0:
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, "the sandbox cannot run jobs as an unprivileged user")
        self._uid = uid

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        on_output: OnOutput = _ignore,
        timeout_s: float | None = None,
    ) -> int:
        """Run a command and return its exit code; output is given as it comes.

        Raises ContractError: `process_timeout` by our own clock, `sandbox_lost` when the sandbox ended underneath.
        """
        limit = timeout_s or self._timeouts.process_s
        started = time.monotonic()
        try:
            async with asyncio.timeout(limit + 10):
                code = await self._exec(
                    [*self._prefix, *argv], stdin=stdin, env=env, on_output=on_output, timeout_s=int(limit) + 1
                )
        except TimeoutError:
            code = -1
        if code == -1 or (code in (124, 137) and time.monotonic() - started >= limit):
            raise ContractError(ErrorCode.PROCESS_TIMEOUT, f"the process did not end within {limit:g} seconds")
        return code

    async def commit(self) -> Commit:
        """Publish what was written to the workspace; raises ContractError `commit_failed` unless it was confirmed.

        `sync` on the mount is how a sandbox commits a v2 volume; a function's `volume.commit()` would not do it.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeouts.commit_s):
                code = await self._exec(["sync", WORKSPACE], on_output=_ignore, timeout_s=self._timeouts.commit_s)
        except TimeoutError:
            code = -1
        if code != 0:
            raise ContractError(ErrorCode.COMMIT_FAILED, "the files could not be committed")
        return Commit(committed=True, elapsed_ms=_ms_since(started))

    async def terminate(self) -> None:
        """End the sandbox and see that it has ended. Idempotent; never raises for a sandbox that is gone already."""
        if self.terminated:
            return
        if self._keeper is not None:
            self._keeper.cancel()
        try:
            async with asyncio.timeout(self._timeouts.terminate_s):
                await self._sandbox.terminate.aio(wait=True)
                self.terminated = True
        except modal.exception.NotFoundError:
            self.terminated = True
        except _PLATFORM_ERRORS as error:
            _log.error("sandbox.terminate_failed", sandbox_id=self.id, reason=type(error).__name__)

    async def _exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        on_output: OnOutput,
        timeout_s: int,
    ) -> int:
        try:
            process = await self._sandbox.exec.aio(
                *argv, workdir=WORKSPACE, env={**_ENV, **(env or {})}, timeout=timeout_s, text=False
            )

            async def feed() -> None:
                for start in range(0, len(stdin), _STDIN_CHUNK_BYTES):
                    process.stdin.write(stdin[start : start + _STDIN_CHUNK_BYTES])
                    await process.stdin.drain.aio()
                process.stdin.write_eof()  # always: a program whose stdin stays open may wait for ever
                await process.stdin.drain.aio()

            async def read(channel: str, stream: AsyncIterator[bytes]) -> None:
                async for chunk in pieces(aiter(stream)):
                    await on_output(channel, chunk)

            async with asyncio.TaskGroup() as group:
                feeder = group.create_task(_ignoring_closed(feed()))
                group.create_task(read("stdout", process.stdout))
                group.create_task(read("stderr", process.stderr))
                code: int = await process.wait.aio()
                feeder.cancel()
        except ExceptionGroup as errors:
            ours, others = errors.split(ContractError)
            if ours is not None:
                raise _first(ours) from None
            raise await self._lost(_first(others or errors)) from None
        except _PLATFORM_ERRORS as error:
            raise await self._lost(error) from None
        if code >= _SIGNALLED and not await self._alive():
            raise await self._lost(None)  # the command did not fail: its sandbox was ended underneath
        return code

    async def _alive(self) -> bool:
        """Whether the sandbox still runs commands: its own exit code may come later than its commands'."""
        try:
            async with asyncio.timeout(_PROBE_S):
                probe = await self._sandbox.exec.aio("true", timeout=_PROBE_S)
                return bool(await probe.wait.aio() == 0)
        except _PLATFORM_ERRORS:
            return False

    async def _lost(self, error: Exception | None) -> Exception:
        """What it means that a command broke off: an error of ours passes, everything else is the sandbox's end."""
        if error is not None and not isinstance(error, _PLATFORM_ERRORS):
            return error
        cancelled = False
        try:
            async with asyncio.timeout(_PROBE_S):
                cancelled = "cancelled" in await self._sandbox.get_tags.aio()
        except _PLATFORM_ERRORS:
            pass  # then it is lost, and not known to be cancelled
        if cancelled:
            return ContractError(ErrorCode.CANCELLED, "the run was cancelled")
        _log.warning("sandbox.lost", sandbox_id=self.id, reason=type(error).__name__)
        return ContractError(ErrorCode.SANDBOX_LOST, "the sandbox ended before its job")

    async def _uid_of(self, prefix: tuple[str, ...]) -> int:
        output = bytearray()

        async def collect(channel: str, data: bytes) -> None:
            if channel == "stdout" and len(output) < 64:
                output.extend(data)

        async with asyncio.timeout(_PROBE_S):
            code = await self._exec([*prefix, "id", "-u"], on_output=collect, timeout_s=_PROBE_S)
        if code != 0 or not output.strip().isdigit():
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, "the sandbox does not answer")
        return int(output)

    async def _own_workspace(self) -> None:
        """Give the job's user what others (uploads through the volume API) have put into the project."""
        command = [
            "find",
            WORKSPACE,
            "!",
            "-uid",
            str(JOB_UID),
            "-exec",
            "chown",
            "-h",
            f"{JOB_UID}:{JOB_UID}",
            "{}",
            "+",
        ]
        await self._exec(command, on_output=_ignore, timeout_s=self._timeouts.start_s)

    async def _keep(self) -> None:
        """Tell the watchdog that the run lives, until cancelled."""
        while True:
            self._sandbox.stdin.write(b".")
            try:
                await self._sandbox.stdin.drain.aio()
            except (*_PLATFORM_ERRORS, ValueError):
                _log.warning("sandbox.lease_not_renewed", sandbox_id=self.id)
            await asyncio.sleep(self._timeouts.lease_s / 6)


async def _ignoring_closed(feeding: Awaitable[None]) -> None:
    """A program need not read its input: a pipe that it closed is not an error."""
    try:
        await feeding
    except (*_PLATFORM_ERRORS, ValueError) as error:
        _log.debug("sandbox.stdin_closed", reason=type(error).__name__)


@asynccontextmanager
async def project_sandbox(
    platform: Platform, timeouts: Timeouts, *, run_id: str, user_id: str, project_id: str
) -> AsyncIterator[ProjectSandbox]:
    """A project's sandbox, terminated on every way out.

    Raises ContractError: `project_busy` when the project has a sandbox already, `sandbox_unavailable`.
    """
    creating = asyncio.ensure_future(_create(platform, timeouts, run_id, user_id, project_id))
    try:
        # Shielded: a creation that is cut off could leave a sandbox that nobody knows.
        sandbox = await asyncio.shield(creating)
    except asyncio.CancelledError:
        await _abandon(creating, timeouts)
        raise
    held = ProjectSandbox(sandbox, timeouts)
    try:
        try:
            async with asyncio.timeout(timeouts.start_s):
                await held.prove_alive()
        except (TimeoutError, ContractError) as error:
            _log.warning("sandbox.not_alive", sandbox_id=held.id, reason=str(error) or "timeout")
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, "the sandbox did not come up") from None
        yield held
    finally:
        await _finish(asyncio.ensure_future(held.terminate()))


async def terminate_run(platform: Platform, run_id: str) -> bool:
    """End the sandbox of a run that another container supervises; False when there is none."""
    found = False
    async for sandbox in modal.Sandbox.list.aio(app_id=platform.app.app_id, tags={"run_id": run_id}):
        found = True
        await sandbox.set_tags.aio({"run_id": run_id, "cancelled": "true"})
        await sandbox.terminate.aio(wait=True)
    return found


async def _create(platform: Platform, timeouts: Timeouts, run_id: str, user_id: str, project_id: str) -> modal.Sandbox:
    try:
        async with asyncio.timeout(timeouts.start_s):
            return await modal.Sandbox.create.aio(
                "python3",
                "-c",
                _WATCHDOG,
                str(timeouts.lease_s),
                app=platform.app,
                name=sandbox_name(user_id, project_id),
                tags={"run_id": run_id},
                image=platform.image,
                timeout=timeouts.sandbox_s,
                block_network=True,
                volumes={
                    WORKSPACE: platform.projects.with_mount_options(sub_path=sub_path(user_id, project_id)),
                    GLOBAL: platform.shared.with_mount_options(read_only=True),
                },
            )
    except modal.exception.AlreadyExistsError:
        raise ContractError(ErrorCode.PROJECT_BUSY, "another run holds this project") from None
    except _PLATFORM_ERRORS as error:
        _log.error("sandbox.create_failed", reason=type(error).__name__, detail=str(error)[:500])
        raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, "no sandbox could be started") from None


async def _abandon(creating: "asyncio.Future[modal.Sandbox]", timeouts: Timeouts) -> None:
    async def end() -> None:
        try:
            sandbox = await creating
        except ContractError:
            return
        await ProjectSandbox(sandbox, timeouts).terminate()

    await _finish(asyncio.ensure_future(end()))


async def _finish(task: "asyncio.Future[None]") -> None:
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


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _ms_since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)

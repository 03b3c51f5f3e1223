"""Makes the sandboxes of one cloud below one private directory, and ends them all.

What happens to a sandbox while it runs is decided in `running_sandbox`.
"""

import asyncio
import secrets
import shutil
import tempfile
from pathlib import Path

from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError
from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.rootfs.warm_launchers import WarmLaunchers
from workbench.local_cloud.sandboxes.engine import isolation
from workbench.local_cloud.sandboxes.engine.diagnosis import explain
from workbench.local_cloud.sandboxes.engine.host_users import isolation_uid
from workbench.local_cloud.sandboxes.engine.running_sandbox import OnNotice, OnSync, Sandbox
from workbench.local_cloud.sandboxes.engine.spec import SandboxSpec, SandboxStartFailedError
from workbench.local_cloud.sandboxes.limits import cgroups
from workbench.local_cloud.sandboxes.limits.free_disk import Disks


class Engine:
    """Makes sandboxes below one private directory, and ends them all when it is closed."""

    def __init__(self, root: Path) -> None:
        """Empty `root`, and find out which cgroups work."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(mode=0o700, parents=True)
        self._root = root
        self._disks = Disks()
        self._sandboxes: set[Sandbox] = set()
        self._seccomp = {rooted: isolation.seccomp_program(rooted=rooted) for rooted in (False, True)}
        cgroups.reap()
        self._cgroups = cgroups.Cgroups.detect()
        self.launchers = WarmLaunchers()
        (root / cgroups.NOTE).write_text("".join(f"{path}\n" for path in self._cgroups.directories))

    async def create(
        self,
        spec: SandboxSpec,
        *,
        on_sync: OnSync | None = None,
        on_notice: OnNotice = lambda text: None,
        clock: Clock | None = None,
    ) -> Sandbox:
        """Start a sandbox; `clock`, by default real time, is for its programs' timeouts.

        When it raises, nothing of the sandbox is left.

        Raises IsolationUnavailableError, SandboxStartFailedError, and OSError if a cgroup or directory cannot be made.
        """
        group = self._cgroups.create(secrets.token_hex(8), spec.limits)
        directory = Path(tempfile.mkdtemp(dir=self._root))
        sandbox = Sandbox(spec, on_sync, on_notice, directory, group, clock=clock or Clock(), disks=self._disks)
        self._sandboxes.add(sandbox)
        seccomp = self._seccomp[spec.root is not None]
        starting = asyncio.ensure_future(sandbox.start(seccomp=seccomp, launchers=self.launchers))
        try:
            await asyncio.shield(starting)
        except BaseException:
            await asyncio.shield(self._undo(sandbox, starting))
            raise
        finally:
            if spec.root is not None:
                self.launchers.refill()
        return sandbox

    async def _undo(self, sandbox: Sandbox, starting: "asyncio.Future[None]") -> None:
        """Wait for the end of a start, then discard the sandbox. A start that is interrupted would leave processes."""
        await asyncio.wait([starting])
        if not starting.cancelled():
            starting.exception()  # mark it as seen: `create` raises it, or was cancelled
        await self.discard(sandbox)

    async def discard(self, sandbox: Sandbox) -> None:
        """Terminate a sandbox and release all that it has. Idempotent."""
        await sandbox.discard()
        self._sandboxes.discard(sandbox)

    async def probe(self) -> None:
        """Start and end one sandbox as a test; raises IsolationUnavailableError with the reason and the fix."""
        spec = SandboxSpec(sandbox_id="probe", uid=isolation_uid(0))
        try:
            await self.discard(await self.create(spec))
        except (SandboxStartFailedError, OSError) as error:
            raise IsolationUnavailableError(explain(str(error))) from error

    async def aclose(self) -> None:
        """End every sandbox and remove their cgroups. Idempotent."""
        await asyncio.gather(*(self.discard(sandbox) for sandbox in list(self._sandboxes)), self.launchers.aclose())
        await asyncio.to_thread(self._cgroups.close)
        (self._root / cgroups.NOTE).unlink(missing_ok=True)

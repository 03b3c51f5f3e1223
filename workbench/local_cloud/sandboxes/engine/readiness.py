"""Readiness probes: repeats a check of a sandbox, by a port or by a program, until it succeeds."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import SandboxStartFailedError

MIN_INTERVAL_S = 0.01
DEFAULT_INTERVAL_S = 0.1
EXEC_TIMEOUT_S = 60.0  # a program that takes longer is killed, and started again


@dataclass(frozen=True)
class Probe:
    """The check: a TCP port of the sandbox's loopback that must accept, or a program that must exit with 0.

    Exactly one of `port` and `argv` is set.
    """

    port: int = 0
    argv: Sequence[str] = ()
    interval_s: float = DEFAULT_INTERVAL_S


class Readiness:
    """Whether a sandbox is ready; once ready, it stays so."""

    def __init__(self, probe: Probe) -> None:
        self.ready_at = 0.0  # Unix seconds, 0 until it is ready
        self._probe = probe
        self._ready = asyncio.Event()

    async def run(self, sandbox: Sandbox) -> None:
        """Repeat the check until it succeeds or the sandbox has ended."""
        while not sandbox.closed:
            if await self._check(sandbox):
                self.ready_at = time.time()
                self._ready.set()
                return
            await asyncio.sleep(max(self._probe.interval_s, MIN_INTERVAL_S))

    async def wait(self) -> None:
        """Return when the sandbox is ready."""
        await self._ready.wait()

    async def _check(self, sandbox: Sandbox) -> bool:
        try:
            if self._probe.port:
                (await sandbox.dial(self._probe.port)).close()
                return True
            exec_id = f"probe-{secrets.token_hex(8)}"
            run = await sandbox.exec(self._probe.argv, exec_id=exec_id, timeout_s=EXEC_TIMEOUT_S)
            try:
                return (await run.wait()).code == 0
            finally:
                sandbox.execs.forget(exec_id)
        except (OSError, ValueError, SandboxStartFailedError):
            return False

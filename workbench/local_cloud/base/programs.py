"""Child processes, each the leader of its own process group: ending one ends everything that it has started.

Why the whole group: a bubblewrap that is killed before its child has its user map leaves that child waiting for ever,
with our pipes open. Why a start is never interrupted: asyncio would kill only the leader. Why each bears the cloud's
mark: a cloud that is killed can end nothing, and bubblewrap dies with it only once it is set up. The mark is how the
janitor, and failing that the next cloud's start, know what is left of it.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from workbench.local_cloud.base.host_processes import MAX_LINE_BYTES

RUN_MARK = "WORKBENCH_CLOUD_RUN"  # the variable that marks every process of one run of a cloud
_REAP_S = 5.0
_UMASK = 0o022  # what programs expect; the cloud's own umask is stricter, and must not be inherited


class Program:
    """A running program whose standard input is empty. Made by `start`; its owner calls `aclose`."""

    def __init__(self, transport: asyncio.SubprocessTransport, leader: "_Leader") -> None:
        self._transport = transport
        self._leader = leader
        self.pid: int = transport.get_pid()

    @classmethod
    async def start(
        cls, *argv: str, env: Mapping[str, str] | None = None, stdout: int = PIPE, stderr: int = PIPE, **how: Any
    ) -> "Program":
        """Start a program with the usual umask; `how` is as for `subprocess.Popen`. Raises OSError.

        When the caller is cancelled meanwhile, the start is completed and the program ended before this returns.
        """
        starting = asyncio.ensure_future(cls._start(argv, env=env, stdout=stdout, stderr=stderr, **how))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([asyncio.ensure_future(_undo(starting))])
            raise

    @classmethod
    async def _start(cls, argv: tuple[str, ...], **how: Any) -> "Program":
        _spare_nobody()
        how["umask"] = _UMASK
        if how["env"] is not None and (mark := os.environ.get(RUN_MARK)):
            how["env"] = {**how["env"], RUN_MARK: mark}
        loop = asyncio.get_running_loop()
        transport, leader = await loop.subprocess_exec(
            lambda: _Leader(limit=MAX_LINE_BYTES, loop=loop), *argv, stdin=DEVNULL, start_new_session=True, **how
        )
        return cls(transport, leader)

    @property
    def stdout(self) -> asyncio.StreamReader:
        """The program's standard output; only for one that was started with stdout=PIPE."""
        assert self._leader.stdout is not None
        return self._leader.stdout

    @property
    def stderr(self) -> asyncio.StreamReader:
        """The program's standard error; only for one that was started with stderr=PIPE."""
        assert self._leader.stderr is not None
        return self._leader.stderr

    async def wait(self) -> int:
        """Return the exit code (negative: the signal) once the program has ended; its output can still be read."""
        await self._leader.exited.wait()
        code = self._transport.get_returncode()
        assert code is not None
        return code

    def kill(self) -> None:
        """Send SIGKILL to the program's group, unless the program has ended: its group was killed with it then."""
        if self._transport.get_returncode() is None:
            _kill_group(self.pid)

    async def aclose(self) -> None:
        """Kill the program and its group, reap it, close its pipes. Idempotent."""
        self.kill()
        await asyncio.wait([asyncio.ensure_future(self._leader.exited.wait())], timeout=_REAP_S)
        self._transport.close()


class _Leader(asyncio.subprocess.SubprocessStreamProtocol):
    """Learns at once that the program has ended; asyncio's own `wait` also waits until its pipes are closed."""

    def __init__(self, *, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self.exited = asyncio.Event()
        self._pid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._pid = transport.get_pid()
        super().connection_made(transport)

    def process_exited(self) -> None:
        _kill_group(self._pid)  # at once: the id may soon be another program's
        super().process_exited()
        self.exited.set()


@cache
def _spare_nobody() -> None:
    """Let no program that is started here be spared more than this process when memory is used up.

    Where root writes its own value, that is from then on the least that it and what it starts may choose. The kernel
    lets an ordinary user's programs go down to what it was for the session.
    """
    with suppress(OSError), Path("/proc/self/oom_score_adj").open("r+b", buffering=0) as file:
        file.write(file.read())


async def _undo(starting: "asyncio.Future[Program]") -> None:
    with suppress(OSError):  # it could not be started, and the caller that would want to know is cancelled
        await (await starting).aclose()


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)

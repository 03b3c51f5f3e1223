"""Programs that lead a process group of their own: one that is ended takes along whatever it has started.

Why the whole group: a bubblewrap that is killed between its clone and its child's user map leaves a child that waits
for ever, with our pipes in its hands. And why a start is never cut off: asyncio would kill the one process and go.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from workbench.local_cloud.base.host_processes import MAX_LINE_BYTES

_REAP_S = 5.0
_UMASK = 0o022  # what programs expect; the cloud's own is stricter, and what it starts must not inherit that


class Program:
    """A running program, without input. Made by `start`; whoever has it calls `aclose`."""

    def __init__(self, transport: asyncio.SubprocessTransport, leader: "_Leader") -> None:
        self._transport = transport
        self._leader = leader
        self.pid: int = transport.get_pid()

    @classmethod
    async def start(
        cls, *argv: str, env: Mapping[str, str] | None = None, stdout: int = PIPE, stderr: int = PIPE, **how: Any
    ) -> "Program":
        """Start a program with the usual umask; `how` is as for `subprocess.Popen`. Raises OSError.

        Cancelled meanwhile, it lets the start come to its end and ends the program again.
        """
        starting = asyncio.ensure_future(cls._start(argv, env=env, stdout=stdout, stderr=stderr, **how))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([asyncio.ensure_future(_undo(starting))])
            raise

    @classmethod
    async def _start(cls, argv: tuple[str, ...], **how: Any) -> "Program":
        how["umask"] = _UMASK
        loop = asyncio.get_running_loop()
        transport, leader = await loop.subprocess_exec(
            lambda: _Leader(limit=MAX_LINE_BYTES, loop=loop), *argv, stdin=DEVNULL, start_new_session=True, **how
        )
        return cls(transport, leader)

    @property
    def stdout(self) -> asyncio.StreamReader:
        """What it prints, when it was started with a pipe for that."""
        assert self._leader.stdout is not None
        return self._leader.stdout

    @property
    def stderr(self) -> asyncio.StreamReader:
        """What it complains about, when it was started with a pipe for that."""
        assert self._leader.stderr is not None
        return self._leader.stderr

    async def wait(self) -> int:
        """Return its exit code, negative for a signal, when it has ended; what it printed may still be read."""
        await self._leader.exited.wait()
        code = self._transport.get_returncode()
        assert code is not None
        return code

    def kill(self) -> None:
        """End it and its group, unless it has ended: its group has gone with it then."""
        if self._transport.get_returncode() is None:
            _kill_group(self.pid)

    async def aclose(self) -> None:
        """End it and its group, reap it, close its pipes. Idempotent."""
        self.kill()
        await asyncio.wait([asyncio.ensure_future(self._leader.exited.wait())], timeout=_REAP_S)
        self._transport.close()


class _Leader(asyncio.subprocess.SubprocessStreamProtocol):
    """Hears of the program's end at once, where asyncio's own `wait` waits for whoever still holds a pipe."""

    def __init__(self, *, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self.exited = asyncio.Event()
        self._pid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._pid = transport.get_pid()
        super().connection_made(transport)

    def process_exited(self) -> None:
        _kill_group(self._pid)  # now or never: the number may soon be another program's
        super().process_exited()
        self.exited.set()


async def _undo(starting: "asyncio.Future[Program]") -> None:
    with suppress(OSError):  # it could not be started; whoever asked has gone
        await (await starting).aclose()


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)

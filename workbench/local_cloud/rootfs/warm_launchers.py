"""Launchers of root file systems that wait for their orders: interpreters that have started and imported everything.

A sandbox or a function's container would otherwise wait for that longer than for all that its launcher then does. One
that waits has nothing of any of them: no namespace, no file, no limit, and no descriptor but its socket. It gets one
order, becomes that sandbox's bubblewrap, and is its alone. It ends with its socket's other end, which only this process
has.
"""

import asyncio
import marshal
import socket
from collections.abc import Sequence

import structlog

from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.base.system_root import system_python
from workbench.local_cloud.rootfs import launcher
from workbench.local_cloud.rootfs.mounting import MARSHAL_VERSION

_log = structlog.get_logger(__name__)

MOST = 2  # that wait: about 9 MB each, a few of them its own
_STDOUT = 1
_CLOSE_S = 10.0


class _Waiting:
    """One launcher, and our end of its socket."""

    def __init__(self, program: Program, channel: socket.socket) -> None:
        self.program = program
        self._channel = channel

    def send(self, order: int, descriptors: Sequence[int], output: Sequence[int]) -> None:
        """Send the order with everything that goes with it. Raises OSError when the launcher has ended."""
        numbers = [order, *(number for number in descriptors if number != order)]
        theirs = [*numbers, *range(_STDOUT, _STDOUT + len(output))]
        with self._channel:
            socket.send_fds(self._channel, [marshal.dumps(theirs, MARSHAL_VERSION)], [*numbers, *output])

    async def aclose(self) -> None:
        self._channel.close()
        await self.program.aclose()


class WarmLaunchers:
    """Up to `MOST` launchers that wait, and more for as long as they get their orders."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._refilling: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The process ids of those that wait."""
        return [waiting.program.pid for waiting in self._waiting]

    async def start(self, order: int, descriptors: Sequence[int], *, output: Sequence[int] = ()) -> Program:
        """Have a launcher carry out the order that a descriptor holds; returns the program that it becomes.

        `descriptors` are those that the order names, which stay open here, as do those of `output`: the program's
        standard output and standard error, without which it has none and `Program.stderr`. Raises
        IsolationUnavailableError, OSError.
        """
        while self._waiting:
            waiting = self._waiting.pop(0)
            try:
                waiting.send(order, descriptors, output)
            except OSError:  # it has ended, whoever has killed it
                await waiting.aclose()
            else:
                return waiting.program
        fresh = await self._started()
        try:
            fresh.send(order, descriptors, output)
        except OSError:
            await fresh.aclose()
            raise
        return fresh.program

    def refill(self) -> None:
        """Start launchers until enough wait, in the background."""
        if not self._closed and (self._refilling is None or self._refilling.done()):
            self._refilling = asyncio.create_task(self._refill())

    async def aclose(self) -> None:
        """End those that wait. Idempotent."""
        self._closed = True
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.wait([self._refilling], timeout=_CLOSE_S)
        while self._waiting:
            await self._waiting.pop().aclose()

    async def _refill(self) -> None:
        try:
            while len(self._waiting) < MOST:
                self._waiting.append(await self._started())
        except (IsolationUnavailableError, OSError) as error:  # the next sandbox starts its own, and says why it cannot
            _log.warning("launcher.not_started", error=type(error).__name__)

    async def _started(self) -> _Waiting:
        python = system_python()
        if python is None:
            raise IsolationUnavailableError("There is no python3 below /usr. Run: sudo apt-get install -y python3")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                words = [python, "-I", "-S", launcher.__file__, str(theirs.fileno())]
                program = await Program.start(
                    *words, stdout=asyncio.subprocess.DEVNULL, env={}, cwd="/", pass_fds=[theirs.fileno()]
                )
        except BaseException:
            ours.close()
            raise
        return _Waiting(program, ours)

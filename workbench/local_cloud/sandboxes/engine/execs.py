"""One program in a sandbox, as the host sees it: its input, its output on disk, its end. Pipes, or a terminal."""

import asyncio
import os
import stat
from pathlib import Path

from workbench.local_cloud.sandboxes.engine.output_spool import Spool
from workbench.local_cloud.sandboxes.engine.spec import ExitStatus

_END_OF_INPUT = b"\x04"  # what a terminal takes for it (VEOF)
_TERMINAL_MASTER = os.makedev(5, 2)  # /dev/ptmx


class Exec:
    """A program that was asked for; `wait` returns when it has ended."""

    def __init__(self, exec_id: str, directory: Path) -> None:
        self.exec_id = exec_id
        self.stdout = Spool(directory)
        self.stderr = Spool(directory)
        self.stdin_bytes_written = 0
        self.stdin_closed = False
        self._status: ExitStatus | None = None
        self.argv: tuple[str, ...] = ()
        """The words that it was started with, once it is."""
        self._ended = asyncio.Event()
        self._connected = asyncio.Event()
        self._is_terminal = False
        self._stdin: asyncio.StreamWriter | None = None
        self._stdin_lock = asyncio.Lock()

    def poll(self) -> ExitStatus | None:
        """How it ended, or None while it runs."""
        return self._status

    async def wait(self) -> ExitStatus:
        """Wait for its end."""
        await self._ended.wait()
        assert self._status is not None
        return self._status

    async def write_stdin(self, data: bytes, *, offset: int, eof: bool) -> None:
        """Write at an offset; bytes already taken are skipped, so that a retry does no harm. ValueError for a gap."""
        async with self._stdin_lock:
            if offset > self.stdin_bytes_written:
                raise ValueError(f"stdin has {self.stdin_bytes_written} bytes, cannot write at {offset}")
            fresh = data[self.stdin_bytes_written - offset :]
            if self._stdin is not None and not self.stdin_closed:
                try:
                    if eof and self._is_terminal:
                        self._stdin.write(fresh + _END_OF_INPUT)
                    elif fresh:
                        self._stdin.write(fresh)
                    await self._stdin.drain()
                    if eof and not self._is_terminal:
                        self._stdin.close()
                except OSError:
                    pass  # the program closed its end: its exit code tells the rest
            self.stdin_bytes_written += len(fresh)
            self.stdin_closed = self.stdin_closed or eof

    def finish(self, status: ExitStatus) -> None:
        """Record the end, once."""
        if self._status is None:
            self._status = status
            for spool in (self.stdout, self.stderr):
                spool.drain()
            if self._stdin is not None:
                self._stdin.close()
            self._connected.set()
            self._ended.set()

    async def connect(self, stdin: int, stdout: int, stderr: int) -> None:
        """Take over the host's ends of its pipes."""
        self.stdout.fill_from(stdout)
        self.stderr.fill_from(stderr)
        await self._take_stdin(stdin)

    async def connect_terminal(self, master: int) -> None:
        """Take over the master side of its terminal; raises ValueError for anything else that a guest may send."""
        status = os.fstat(master)
        if self._connected.is_set() or not stat.S_ISCHR(status.st_mode) or status.st_rdev != _TERMINAL_MASTER:
            os.close(master)
            raise ValueError("not the master side of a terminal")
        self._is_terminal = True
        self.stderr.drain()  # a terminal has one stream
        self.stdout.fill_from(os.dup(master))
        await self._take_stdin(master)

    async def connected(self) -> None:
        """Return when its input and output are there, or it has ended without."""
        await self._connected.wait()

    async def _take_stdin(self, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        file = os.fdopen(descriptor, "wb", buffering=0)
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
        self._stdin = asyncio.StreamWriter(transport, protocol, None, loop)
        self._connected.set()

    def discard(self) -> None:
        """Release its pipes and its output."""
        if self._stdin is not None:
            self._stdin.close()
        self.stdout.discard()
        self.stderr.discard()

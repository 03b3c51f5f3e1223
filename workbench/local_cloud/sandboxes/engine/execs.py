"""One program in a sandbox, as the host sees it: its input, its spooled output and its end. Pipes, or a terminal."""

import asyncio
import os
import stat
from pathlib import Path

from workbench.local_cloud.sandboxes.engine.output_spool import Spool
from workbench.local_cloud.sandboxes.engine.spec import ExitStatus

_END_OF_INPUT = b"\x04"  # the character that means end of input on a terminal (VEOF)
_TERMINAL_MASTER = os.makedev(5, 2)  # /dev/ptmx


class Exec:
    """A program in a sandbox. Made before it is started; `connect` or `connect_terminal` then gives it its streams."""

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
        """Return how the program ended, None while it runs."""
        return self._status

    async def wait(self) -> ExitStatus:
        """Wait for the program's end and return how it ended."""
        await self._ended.wait()
        assert self._status is not None
        return self._status

    async def write_stdin(self, data: bytes, *, offset: int, eof: bool) -> None:
        """Write to the input at a byte offset; with `eof`, close it afterwards.

        Bytes before the present end of the input are skipped, so that a write may be repeated. Raises ValueError for an
        offset behind it.
        """
        async with self._stdin_lock:
            if offset > self.stdin_bytes_written:
                raise ValueError(f"stdin has {self.stdin_bytes_written} bytes: a write at {offset} would leave a gap")
            fresh = data[self.stdin_bytes_written - offset :]
            if self._stdin is not None and not self.stdin_closed:
                try:
                    if eof and self._is_terminal:
                        self._stdin.write(fresh + _END_OF_INPUT)
                        self.stdin_closed = True
                    elif fresh:
                        self._stdin.write(fresh)
                    self.stdin_bytes_written += len(fresh)  # a call that is cancelled from here on is made again
                    fresh = b""
                    await self._stdin.drain()
                    if eof and not self._is_terminal:
                        self._stdin.close()
                except OSError:
                    pass  # the program has closed its input, which is no error of the writer
            self.stdin_bytes_written += len(fresh)
            self.stdin_closed = self.stdin_closed or eof

    def finish(self, status: ExitStatus) -> None:
        """Record how the program ended; only the first call counts."""
        if self._status is None:
            self._status = status
            for spool in (self.stdout, self.stderr):
                spool.drain()
            if self._stdin is not None:
                self._stdin.close()
            self._connected.set()
            self._ended.set()

    async def connect(self, stdin: int, stdout: int, stderr: int) -> None:
        """Use the host's ends of the program's pipes, which are closed here later. Raises OSError."""
        self.stdout.fill_from(stdout)
        self.stderr.fill_from(stderr)
        await self._take_stdin(stdin)

    async def connect_terminal(self, master: int) -> None:
        """Use the master side of the program's terminal; the descriptor is closed here in any case.

        Raises ValueError for any other descriptor that a guest may send, and for a second one.
        """
        status = os.fstat(master)
        if self._connected.is_set() or not stat.S_ISCHR(status.st_mode) or status.st_rdev != _TERMINAL_MASTER:
            os.close(master)
            raise ValueError("not the master side of a terminal")
        self._is_terminal = True
        self.stderr.drain()  # a terminal has one stream
        self.stdout.fill_from(os.dup(master))
        await self._take_stdin(master)

    async def connected(self) -> None:
        """Return when the program has its streams, or has ended without them."""
        await self._connected.wait()

    async def _take_stdin(self, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        file = os.fdopen(descriptor, "wb", buffering=0)
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
        self._stdin = asyncio.StreamWriter(transport, protocol, None, loop)
        self._connected.set()

    def discard(self) -> None:
        """Release the program's pipes and its output. Idempotent."""
        if self._stdin is not None:
            self._stdin.close()
        self.stdout.discard()
        self.stderr.discard()

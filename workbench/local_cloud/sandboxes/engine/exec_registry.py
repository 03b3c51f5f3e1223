"""The programs of one sandbox by their ids: starts them through its agent, and keeps their output for later readers."""

import asyncio
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from workbench.local_cloud.sandboxes.engine.agent_channel import Channel
from workbench.local_cloud.sandboxes.engine.execs import Exec
from workbench.local_cloud.sandboxes.engine.spec import ExitStatus, SandboxStartFailedError

_MAX_EXECS = 4096
_TERMINAL_S = 10.0


class ExecRegistry:
    """Every program of a sandbox that was started and not forgotten."""

    def __init__(self, channel: Channel, directory: Path, *, uid: int) -> None:
        """`directory` is for the files of spooled output; as root, the programs' pipes get the owner `uid`."""
        self._channel = channel
        self._directory = directory
        self._uid = uid
        self._execs: dict[str, Exec] = {}

    def find(self, exec_id: str) -> Exec | None:
        """Return a program by its id, None if there is none."""
        return self._execs.get(exec_id)

    def add(self, exec_id: str) -> Exec:
        """Make the host's side of a new program; raises SandboxStartFailedError when 4,096 are running.

        With so many known ones, the oldest that has ended is forgotten.
        """
        if len(self._execs) >= _MAX_EXECS:
            oldest = next((key for key, item in self._execs.items() if item.poll() is not None), None)
            if oldest is None:
                raise SandboxStartFailedError(f"the sandbox already runs {_MAX_EXECS} programs, the most that it may")
            self.forget(oldest)
        run = self._execs[exec_id] = Exec(exec_id, self._directory)
        return run

    async def start(
        self,
        exec_id: str,
        order: Mapping[str, object],
        *,
        terminal: tuple[int, int] | None,
        devnull: Collection[str] = (),
    ) -> Exec:
        """Have the agent start a program, on pipes or on a terminal of (rows, columns).

        `order` has the program's `argv`, `env` and `cwd`. Output to a stream in `devnull` is discarded, except on a
        terminal. Raises SandboxStartFailedError, and ValueError for an order that is too large; then the same id may be
        used again.
        """
        run = self.add(exec_id)
        message = {"op": "exec", "id": exec_id, **order, "terminal": terminal}
        try:
            if terminal is None:
                await self._send_with_pipes(message, run, devnull)
            else:
                await self._channel.send(message)
                await asyncio.wait_for(run.connected(), _TERMINAL_S)
        except BaseException as error:
            self._execs.pop(exec_id).discard()
            if isinstance(error, TimeoutError):
                raise SandboxStartFailedError(f"the sandbox opened no terminal within {_TERMINAL_S:g} s") from error
            raise
        return run

    async def _send_with_pipes(self, message: dict[str, object], run: Exec, devnull: Collection[str]) -> None:
        pipes = [os.pipe() for _ in range(3)]
        inside = [pipes[0][0], pipes[1][1], pipes[2][1]]
        try:
            if os.geteuid() == 0:
                for descriptor in inside:
                    os.fchown(descriptor, self._uid, self._uid)
            await run.connect(pipes[0][1], pipes[1][0], pipes[2][0])
            for target, stream in ((1, "stdout"), (2, "stderr")):
                if stream in devnull:  # closing the pipe's write end makes an empty stream
                    null = os.open(os.devnull, os.O_WRONLY)
                    os.close(inside[target])
                    inside[target] = null
            await self._channel.send(message, inside)
        finally:
            for descriptor in inside:
                os.close(descriptor)

    async def kill(self, exec_id: str) -> None:
        """Kill a program, its process group and its descendants; raises SandboxStartFailedError."""
        await self._channel.send({"op": "kill", "id": exec_id})

    def forget(self, exec_id: str) -> None:
        """Release a program's output; the program itself may go on. Idempotent."""
        run = self._execs.pop(exec_id, None)
        if run is not None:
            run.discard()

    def any_runs(self, *, apart_from: str) -> bool:
        """Whether a program other than `apart_from` runs."""
        return any(run.poll() is None for run in self._execs.values() if run.exec_id != apart_from)

    def finish_all(self, status: ExitStatus) -> None:
        """Give every program that has not ended this status."""
        for run in self._execs.values():
            run.finish(status)

    def discard(self) -> None:
        """Release the output of every program."""
        for run in self._execs.values():
            run.discard()

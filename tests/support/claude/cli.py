"""The real, pinned Claude CLI as a child of a test: run as commands say, always reaped."""

import asyncio
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from modal_app.actions.claude_command import Command


@dataclass(frozen=True)
class Ended:
    """How a CLI ended."""

    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def lines(self) -> list[bytes]:
        """Its stdout, line by line."""
        return self.stdout.splitlines(keepends=True)


async def run(command: Command, workspace: Path, *, timeout_s: float = 60) -> Ended:
    """Run a command in a workspace, in a process group that does not outlive it."""
    started = time.monotonic()
    env = {"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir(), "LANG": "C.UTF-8", **command.env}
    process = await asyncio.create_subprocess_exec(
        *command.argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=workspace,
        env=env,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(command.stdin)
    except BaseException:
        process.terminate()  # commands of its Bash tool are in sessions of their own: it alone can end them
        await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=5)
        raise
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing of it is left
        await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, out, err, time.monotonic() - started)

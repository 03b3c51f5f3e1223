"""The real, pinned Claude CLI as a child of a test: installed once, run as commands say, always reaped."""

import asyncio
import os
import platform
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from modal_app.actions.claude_command import CLI_PACKAGE, CLI_VERSION, Command

PROGRAM_VARIABLE = "WORKBENCH_CLAUDE_CLI"  # a CLI that is already here
INSTALL_S = 300


def program() -> Path:
    """The CLI's program; installs it into the user's cache on first use. No package's script is run."""
    if given := os.environ.get(PROGRAM_VARIABLE):
        return Path(given)
    architecture = {"x86_64": "x64", "aarch64": "arm64"}[platform.machine()]
    package = f"{CLI_PACKAGE}-linux-{architecture}"
    cache = platformdirs.user_cache_path("modal-workbench", ensure_exists=True)
    home = cache / f"claude-code-{CLI_VERSION}-{architecture}"
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            command = ["npm", "install", "--prefix", scratch, "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run([*command, f"{package}@{CLI_VERSION}"], check=True, timeout=INSTALL_S, capture_output=True)
            (Path(scratch) / "node_modules").rename(home)
    return home / package / "claude"


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

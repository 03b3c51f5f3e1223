"""The pinned Claude CLI as a program on this machine, for the baseline of Claude jobs."""

import os
import platform
import subprocess
import tempfile
from pathlib import Path

import platformdirs

from modal_app.actions.claude_command import CLI_PACKAGE, CLI_VERSION

PROGRAM_VARIABLE = "WORKBENCH_CLAUDE_CLI"  # the path of a CLI that is installed already
INSTALL_S = 300


def program() -> Path:
    """The path of the CLI; on first use it is installed into the user's cache, without running install scripts."""
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

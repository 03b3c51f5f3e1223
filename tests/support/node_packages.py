"""Packages of Node.js that tests need, installed as a user's project has them."""

import shutil
import subprocess
from pathlib import Path

import pytest

INSTALL_S = 180
WITHOUT_NODE = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="node and npm are not installed"
)


def install(package: Path, directory: Path) -> None:
    """Install what a `package.json` names, beside a copy of it; no package's own scripts are run."""
    shutil.copy(package, directory)
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

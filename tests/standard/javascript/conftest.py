"""A JavaScript project with the packages that its tests need, installed once."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTALL_S = 180
SCRIPT_S = 150
NODE = [
    pytest.mark.skipif(
        shutil.which("node") is None or shutil.which("npm") is None, reason="node and npm are not installed"
    ),
    pytest.mark.timeout(INSTALL_S + SCRIPT_S),
]


@pytest.fixture(scope="session")
def scripts() -> Iterator[Path]:
    """The scripts with the SDK beside them, as a user's project has it."""
    with tempfile.TemporaryDirectory(prefix="workbench-javascript-") as name:
        directory = Path(name)
        for path in (HERE / "package.json", *HERE.glob("*.mjs")):
            shutil.copy(path, directory)
        install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
        done = subprocess.run(install, cwd=directory, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        yield directory

"""A JavaScript project with the packages that its tests need, installed once."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node_packages import INSTALL_S, WITHOUT_NODE, install

HERE = Path(__file__).parent
SCRIPT_S = 150
NODE = [
    WITHOUT_NODE,
    pytest.mark.timeout(INSTALL_S + SCRIPT_S),
]


@pytest.fixture(scope="session")
def scripts() -> Iterator[Path]:
    """The scripts with the SDK beside them, as a user's project has it."""
    with tempfile.TemporaryDirectory(prefix="workbench-javascript-") as name:
        directory = Path(name)
        for path in HERE.glob("*.mjs"):
            shutil.copy(path, directory)
        install(HERE / "package.json", directory)
        yield directory

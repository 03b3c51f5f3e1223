"""Lint, format, types, spelling and the direction of imports are clean."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DEADLINE_S = 300
COMMANDS = {
    "ruff check": ["-m", "ruff", "check"],
    "ruff format": ["-m", "ruff", "format", "--check"],
    "mypy": ["-m", "mypy"],
    "codespell": ["-m", "codespell_lib"],
    "import-linter": [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"],
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_code_is_clean(command: list[str]) -> None:
    """A finding that is left standing hides the next one, which may be a defect; so none is left."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout

"""Lint, format, types and spelling are clean."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

DEADLINE_S = 300
COMMANDS = {
    "ruff check": ["ruff", "check"],
    "ruff format": ["ruff", "format", "--check"],
    "mypy": ["mypy"],
    "codespell": ["codespell_lib"],
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_code_is_clean(command: list[str]) -> None:
    """A finding that is left standing hides the next one, which may be a defect; so none is left."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout

"""Command lines as their users have them: variables, arguments, output, exit code."""

import os
import sys
from collections.abc import Mapping
from subprocess import CompletedProcess

from tests.support import warm

COMMAND_TIMEOUT_S = 120
WORKBENCH = [sys.executable, "-m", "workbench"]
PLAIN = {"NO_COLOR": "1", "TERM": "dumb"}


def cli(
    *arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 110
) -> CompletedProcess[str]:
    """Run `workbench …` to its end, whatever its exit code is."""
    variables = {**os.environ, **PLAIN, "COLUMNS": "200", **(env or {})}
    return warm.run("-m", "workbench", *arguments, env=variables, stdin=stdin, timeout_s=timeout_s)


class Cli:
    """The stock `modal` command against a cloud."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = {**os.environ, **env, **PLAIN, "COLUMNS": "250"}

    def __call__(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """Run `modal …` and return what it printed; fail with it when `check` and the exit code is not 0."""
        done = warm.run("-m", "modal", *arguments, env=self._env, stdin=stdin, timeout_s=COMMAND_TIMEOUT_S)
        assert not check or done.returncode == 0, f"modal {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

"""Runs the stock `modal` command against a target, as a child process with a deadline. Blocking calls.

A child that does not end by its deadline is killed.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.deployment.children import Ended, run_to_end
from workbench.errors import WorkbenchError

ASK_TIMEOUT_S = 60.0
_SHOWN_LINES = 15


class ModalCommandFailedError(WorkbenchError):
    """The command failed or missed its deadline; the message ends with its output."""


def follow(
    arguments: Sequence[str],
    env: Mapping[str, str],
    *,
    timeout_s: float,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """Run `modal` with these arguments, calling `on_line` with each line that it prints.

    `env` is its complete environment. Raises ModalCommandFailedError.
    """
    done = run_to_end(_command(arguments), env, timeout_s=timeout_s, on_line=on_line)
    if done.code != 0:
        raise ModalCommandFailedError(_failure(arguments, done, timeout_s, done.lines))


def ask(arguments: Sequence[str], env: Mapping[str, str], *, timeout_s: float = ASK_TIMEOUT_S) -> Any:
    """Run `modal … --json` and return the parsed answer; `env` is its complete environment.

    Raises ModalCommandFailedError.
    """
    asked = [*arguments, "--json"]
    done = run_to_end(_command(asked), env, timeout_s=timeout_s, answers=True)
    said = done.lines or done.answer.splitlines()
    if done.code != 0:
        raise ModalCommandFailedError(_failure(asked, done, timeout_s, said))
    try:
        return json.loads(done.answer)
    except ValueError:
        raise ModalCommandFailedError(_failure(asked, done, timeout_s, done.answer.splitlines())) from None


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "modal", *arguments]


def _failure(arguments: Sequence[str], done: Ended, timeout_s: float, lines: Sequence[str]) -> str:
    how = "did not answer in JSON" if done.code == 0 else f"failed with exit code {done.code}"
    how = f"did not end within {timeout_s:g} s" if done.late else how
    said = [line for line in (line.rstrip() for line in lines) if line][-_SHOWN_LINES:]
    return "\n".join([f"`modal {' '.join(arguments)}` {how}{':' if said else ''}", *said])

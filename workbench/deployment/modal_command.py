"""Runs the stock `modal` command against a target, as a child process with a deadline. Blocking calls.

A child that does not end by its deadline is killed.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    lines: list[str] = []
    with subprocess.Popen(
        _command(arguments),
        env=_plain(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        late = threading.Event()
        deadline = threading.Timer(timeout_s, _end, (process, late))
        deadline.daemon = True
        deadline.start()
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                on_line(line.rstrip())
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            deadline.cancel()
    if code != 0:
        how = f"did not end within {timeout_s:g} s" if late.is_set() else f"failed with exit code {code}"
        raise ModalCommandFailedError(_failure(arguments, how, lines))


def ask(arguments: Sequence[str], env: Mapping[str, str], *, timeout_s: float = ASK_TIMEOUT_S) -> Any:
    """Run `modal … --json` and return the parsed answer; `env` is its complete environment.

    Raises ModalCommandFailedError.
    """
    asked = [*arguments, "--json"]
    try:
        done = subprocess.run(
            _command(asked),
            env=_plain(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModalCommandFailedError(_failure(asked, f"did not end within {timeout_s:g} s", [])) from None
    if done.returncode != 0:
        how = f"failed with exit code {done.returncode}"
        raise ModalCommandFailedError(_failure(asked, how, (done.stderr or done.stdout).splitlines()))
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise ModalCommandFailedError(_failure(asked, "did not answer in JSON", done.stdout.splitlines())) from None


def _end(process: "subprocess.Popen[str]", late: threading.Event) -> None:
    late.set()
    process.kill()


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "modal", *arguments]


def _plain(env: Mapping[str, str]) -> dict[str, str]:
    return {**env, "NO_COLOR": "1", "TERM": "dumb"}


def _failure(arguments: Sequence[str], how: str, lines: Sequence[str]) -> str:
    said = [line for line in (line.rstrip() for line in lines) if line][-_SHOWN_LINES:]
    return "\n".join([f"`modal {' '.join(arguments)}` {how}{':' if said else ''}", *said])

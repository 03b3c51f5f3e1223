"""Runs a child process to its end or its deadline, following the lines that it prints. Blocking calls."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """How a child has ended: `late` says that it was killed at its deadline."""

    code: int
    lines: tuple[str, ...]
    answer: str
    late: bool


def run_to_end(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    timeout_s: float,
    on_line: Callable[[str], None] = lambda line: None,
    answers: bool = False,
) -> Ended:
    """Run a command without colours, calling `on_line` with each line that it prints, stripped at its end.

    `env` is its complete environment. With `answers` its standard output is its answer, and the lines are those of the
    other stream. It has a process group of its own, which is killed at the deadline and when this call is interrupted.
    """
    lines: list[str] = []
    late = threading.Event()
    with subprocess.Popen(
        command,
        env={**env, "NO_COLOR": "1", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if answers else subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    ) as process:
        deadline = threading.Timer(timeout_s, _end, (process, late))
        deadline.daemon = True
        deadline.start()
        try:
            assert process.stdout is not None
            answer = ""
            if process.stderr is not None:
                reader = threading.Thread(target=_follow, args=(process.stderr, lines, on_line), daemon=True)
                reader.start()
                answer = process.stdout.read()
                reader.join()
            else:
                _follow(process.stdout, lines, on_line)
            code = process.wait()
        except BaseException:
            _kill(process)
            raise
        finally:
            deadline.cancel()
    return Ended(code, tuple(lines), answer, late.is_set())


def _follow(printed: Iterable[str], lines: list[str], on_line: Callable[[str], None]) -> None:
    for line in printed:
        lines.append(line.rstrip())
        on_line(line.rstrip())


def _end(process: "subprocess.Popen[str]", late: threading.Event) -> None:
    late.set()
    _kill(process)


def _kill(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)

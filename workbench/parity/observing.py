"""Looks at rows on one target, in child processes with a deadline for each row. Blocking calls.

A row that does not end in time is given up with its process, and the rows after it go on in a new one.
"""

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from pydantic import BaseModel, ConfigDict

from workbench.parity.catalogue import Row, command

RUN_VARIABLE = "WORKBENCH_PARITY_RUN"  # a word in the names of all that the rows of one run make
START_S = 120.0
"""How long a program of the suite may take until its first row begins: its images are built meanwhile."""
_END_S = 30.0
_SHOWN_LINES = 3


class Observation(BaseModel):
    """What was seen of one row on one target; `missing` says why nothing was, else it is empty."""

    model_config = ConfigDict(frozen=True)

    seen: Any = None
    took_s: float = 0.0
    missing: str = ""


def observe(
    rows: Sequence[Row], env: Mapping[str, str], *, on_row: Callable[[Row, Observation], None] = lambda row, seen: None
) -> dict[str, Observation]:
    """Look at rows on the target that `env` names, a complete environment; the answer is by the rows' keys.

    `on_row` is called with each row as it is known.
    """
    found: dict[str, Observation] = {}
    env = {**env, RUN_VARIABLE: secrets.token_hex(6)}
    try:
        for area in dict.fromkeys(row.area for row in rows):
            waiting = [row for row in rows if row.area == area]
            while waiting:
                known = len(found)
                for row, observation in _attempt(area, waiting, env):
                    found[row.key] = observation
                    waiting.remove(row)
                    on_row(row, observation)
                assert len(found) > known, "an attempt tells of one row at least"
    finally:
        _clean(env)
    return found


def _clean(env: Mapping[str, str]) -> None:
    """Remove what rows have left that did not end: volumes, dicts and secrets."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command("--clean"),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_END_S,
            check=False,
        )


def _attempt(area: str, rows: Sequence[Row], env: Mapping[str, str]) -> Iterator[tuple[Row, Observation]]:
    """Look at rows until all are known or the process ends; at least one is known then."""
    by_name = {row.name: row for row in rows}
    with _process(command(area, *by_name), env) as (process, errors):
        lines = _Lines(process)
        known: set[str] = set()
        current: Row | None = None
        while len(known) < len(rows):
            patience = current.seconds if current is not None else START_S
            line = lines.next(patience)
            if line is None or "failed" in line:
                why = _why(line, lines, patience, errors)
                lost = (
                    [current]
                    if current is not None and line is None
                    else [row for row in rows if row.name not in known]
                )
                for row in lost:
                    yield row, Observation(missing=why)
                return
            if "begins" in line:
                current = by_name[line["begins"]]
            else:
                row = by_name[line["row"]]
                known.add(row.name)
                yield row, Observation(seen=line["seen"], took_s=line["took_s"])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)


def _why(line: dict[str, Any] | None, lines: "_Lines", patience: float, errors: IO[str]) -> str:
    if line is not None:
        return f"the program did not run: {line['failed']}"
    if not lines.ended:
        return f"it did not end within {patience:g} s"
    errors.seek(0)
    last = " ".join(errors.read().strip().splitlines()[-_SHOWN_LINES:])
    return f"its process ended: {last or 'it gave no reason'}"


class _Lines:
    """The JSON lines that a process prints, with deadlines."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        self._out = process.stdout.fileno()
        self._rest = b""
        self.ended = False

    def next(self, patience_s: float) -> dict[str, Any] | None:
        """The next line; None when there is none within `patience_s` seconds, or the process has ended."""
        deadline = time.monotonic() + patience_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                data = os.read(self._out, 65536)
                if not data:
                    self.ended = True
                    return None
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.contextmanager
def _process(arguments: Sequence[str], env: Mapping[str, str]) -> "Iterator[tuple[subprocess.Popen[bytes], IO[str]]]":
    """A child in a session of its own, which is killed when the block ends."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            arguments,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            yield process, errors
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

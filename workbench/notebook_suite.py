"""Runs many notebooks, one after the other or several at once, and reports them for people and for CI systems."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from workbench import notebooks as books
from workbench.text.junit import Case, junit

_END_S = 20.0  # for a notebook that is interrupted to end its kernel
EXIT_CODES: Mapping[books.Why, int] = {"cell": 1, "fault never fired": 3, "kernel": 4, "timeout": 5}
"""What `workbench notebooks run` ends with, for each way in which a notebook fails."""


@dataclass(frozen=True)
class Ran:
    """A notebook that was run: `error` and `why` say how it failed, when it did."""

    name: str
    seconds: float
    output: Path
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    why: books.Why | None = None

    @property
    def ok(self) -> bool:
        """Whether it ran to its end."""
        return self.why is None


def run_one(path: Path, output_dir: Path, parameters: Mapping[str, Any]) -> Ran:
    """Run one notebook in this process, and say what became of it."""
    began = time.monotonic()
    try:
        result = books.run(path, output_dir=output_dir, parameters=parameters)
    except books.NotebookFailedError as error:
        return Ran(path.stem, time.monotonic() - began, error.output, error=str(error), why=error.why)
    return Ran(path.stem, time.monotonic() - began, result.output, result.facts)


def run_all(
    paths: Sequence[Path],
    output_dir: Path,
    parameters: Mapping[str, Any],
    *,
    workers: int = 1,
    on_begin: Callable[[str], None] = lambda name: None,
) -> Iterator[Ran]:
    """Run notebooks, at most `workers` at once, and give each when it has ended.

    Several at once run in processes of their own, which are ended when the caller stops before the end.
    """
    if workers == 1 or len(paths) == 1:
        for path in paths:
            on_begin(path.stem)
            yield run_one(path, output_dir, parameters)
        return
    running: set[subprocess.Popen[str]] = set()
    stopped = False

    def child(path: Path) -> Ran:
        command = [sys.executable, "-m", "workbench", "notebooks", "run", str(path), "--json"]
        command += ["--output-dir", str(output_dir), *_options(parameters)]
        began = time.monotonic()
        if stopped:
            return Ran(path.stem, 0.0, output_dir, error="it was not begun", why="kernel")
        on_begin(path.stem)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            running.add(process)
            said, errors = process.communicate()
            running.discard(process)
        return _told(path, output_dir, time.monotonic() - began, process.returncode, said, errors)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for done in as_completed([pool.submit(child, path) for path in paths]):
                yield done.result()
        finally:
            stopped = True
            for process in tuple(running):
                process.terminate()
            deadline = time.monotonic() + _END_S
            for process in tuple(running):
                try:
                    process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()


def write_html(ran: Sequence[Ran], directory: Path) -> None:
    """Write each executed notebook as a page that stands alone, with widgets as they were last seen. Raises OSError."""
    import nbformat
    from nbconvert import HTMLExporter  # here, because it takes a second to import

    directory.mkdir(parents=True, exist_ok=True)
    for one in ran:
        if one.output.is_file():
            notebook = nbformat.read(one.output, as_version=nbformat.NO_CONVERT)
            notebook.metadata.pop("widgets", None)  # else nbconvert leaves widgets to a script from elsewhere
            page, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": one.name}})
            (directory / f"{one.name}.html").write_text(page, encoding="utf-8")


def as_junit(ran: Sequence[Ran], *, took_s: float) -> str:
    """The notebooks as JUnit XML, one test case each."""
    cases = [
        Case(
            one.name,
            one.seconds,
            failed="" if one.ok else f"{one.why}: {one.error}",
            out="\n".join(f"{name}: {value}" for name, value in one.facts.items()),
        )
        for one in ran
    ]
    return junit("workbench notebooks", cases, took_s=took_s)


def _options(parameters: Mapping[str, Any]) -> Iterator[str]:
    for name, value in parameters.items():
        if name == "target":
            yield from ("--target", str(value))
        else:
            yield from ("-p", f"{name}={value if isinstance(value, str) else json.dumps(value)}")


def _told(path: Path, output_dir: Path, seconds: float, code: int, said: str, errors: str) -> Ran:
    """What a notebook's process has told of it."""
    try:
        told = cast("dict[str, Any]", json.loads(said.splitlines()[-1]))
    except (IndexError, ValueError):
        last = (errors.strip().splitlines() or [f"its process ended with exit code {code}"])[-1]
        return Ran(path.stem, seconds, output_dir / path.name, error=last, why="kernel")
    output = Path(told["output"])
    if told["ok"]:
        return Ran(path.stem, seconds, output, told["facts"])
    return Ran(path.stem, seconds, output, error=told["facts"]["error"], why=told["why"])

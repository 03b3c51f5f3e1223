"""Runs notebooks as tests: executes them with papermill, with parameters and deadlines.

A notebook has passed when its last cell has run. One that fails is saved with its output before the exception is
raised, and the exception names the failing cell by its own number: code cells of the notebook, counted from 1.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import WorkbenchError
from workbench.text.plain_text import one_line, printable

if TYPE_CHECKING:
    import nbformat

CELL_TIMEOUT_S = 300
START_TIMEOUT_S = 60
FACTS_TYPE = "application/vnd.workbench.facts+json"


Why = Literal["cell", "fault never fired", "kernel", "timeout"]
_SHOWN_TRACEBACK_LINES = 4
_NOT_OURS = ("injected-parameters", "papermill-error-cell-tag")  # cells that papermill adds
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class NotebookFailedError(WorkbenchError):
    """A notebook did not run to its end; `output` is the path at which it was saved with its output.

    `why` is "cell" when a cell raised, "kernel" when the kernel died or was ended, "timeout" when a cell was late, and
    "fault never fired" when an experiment of the notebook did not happen, so that nothing is known.
    """

    def __init__(self, message: str, output: Path, *, why: Why = "cell") -> None:
        super().__init__(message)
        self.output = output
        self.why = why


@dataclass(frozen=True)
class NotebookResult:
    """A notebook that ran to its end: where it was saved, and the facts that it showed."""

    name: str
    output: Path
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """A notebook's result as named values. A notebook shows it last, so that it is kept in the saved output as data."""

    values: Mapping[str, Any]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        lines = "\n".join(f"{name}: {value}" for name, value in self.values.items())
        return {FACTS_TYPE: dict(self.values), "text/plain": lines}


def notebook_dir() -> Path:
    """The directory of the project's notebooks; raises NotebookFailedError outside a checkout."""
    directory = Path(__file__).resolve().parents[1] / "notebooks"
    if not directory.is_dir():
        raise NotebookFailedError("the notebooks are not installed; run this in a checkout of the project", directory)
    return directory


def find(names: list[str]) -> list[Path]:
    """Find notebooks by names, beginnings of names, or paths; all if none is given. Raises NotebookFailedError."""
    everything = sorted(notebook_dir().glob("[0-9]*.ipynb"))
    if not names:
        return everything
    found = []
    for name in names:
        matching = [path for path in everything if path.name.startswith(name)]
        if Path(name).is_file():
            matching = [Path(name)]
        if not matching:
            known = ", ".join(path.stem for path in everything)
            raise NotebookFailedError(f"there is no notebook '{name}'; there are {known}", Path(name))
        found += matching
    return found


def run(
    notebook: Path,
    *,
    output_dir: Path,
    parameters: Mapping[str, Any] | None = None,
    cell_timeout_s: int = CELL_TIMEOUT_S,
) -> NotebookResult:
    """Run a notebook and save it with its output in `output_dir`. Raises NotebookFailedError.

    No cell may take longer than `cell_timeout_s` seconds.
    """
    import nbformat  # here, because these take a second and every other command would pay it
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillException, PapermillExecutionError

    output = output_dir / notebook.name
    try:
        asked = nbformat.read(notebook, as_version=4)
        nbformat.validate(asked)
        output_dir.mkdir(parents=True, exist_ok=True)
        if output.resolve() == notebook.resolve():
            raise NotebookFailedError(f"{notebook.name} would be written over: give another --output-dir", output)
    except OSError as error:
        message = f"{notebook.name}: {error.filename}: {error.strerror}"
        raise NotebookFailedError(message, output) from None
    except (ValueError, AttributeError, KeyError, nbformat.ValidationError) as error:
        message = f"{notebook.name} is no notebook: {one_line(str(error))[:300]}"
        raise NotebookFailedError(message, output) from None
    try:
        executed = papermill.execute_notebook(
            str(notebook),
            str(output),
            parameters=dict(parameters or {}),
            kernel_name="python3",
            language="python",  # a notebook need not say it
            progress_bar=False,
            execution_timeout=cell_timeout_s,
            start_timeout=START_TIMEOUT_S,
            cwd=str(notebook.parent),
        )
    except PapermillExecutionError as error:
        number = _number_of_the_failed(nbformat.read(output, as_version=4).cells)
        why: Why = "fault never fired" if error.ename == "FaultNeverFiredError" else "cell"
        said = f"cell {number}: {error.ename}: {printable(str(error.evalue))[:500]}{_last_lines(error.traceback)}"
        raise NotebookFailedError(f"{notebook.name}, {said}; the notebook is in {output}", output, why=why) from None
    except (CellTimeoutError, DeadKernelError) as error:
        dead = isinstance(error, DeadKernelError)
        number = _mark_the_last(output)
        said = "the kernel died" if dead else f"it did not end within {cell_timeout_s} s"
        raise NotebookFailedError(
            f"{notebook.name}, cell {number}: {said}; the notebook is in {output}",
            output,
            why="kernel" if dead else "timeout",
        ) from None
    except (PapermillException, RuntimeError, OSError, TimeoutError) as error:
        raise NotebookFailedError(f"{notebook.name}: {error}; the notebook is in {output}", output) from None
    if number := _first_unfinished(asked.cells, executed.cells):
        said = f"cell {number}: it ended the kernel, and the notebook with it"
        raise NotebookFailedError(f"{notebook.name}, {said}; the notebook is in {output}", output, why="kernel")
    return NotebookResult(notebook.stem, output, facts(executed))


def _own(cells: "Sequence[nbformat.NotebookNode]") -> "list[nbformat.NotebookNode]":
    """The code cells that stand in the notebook itself."""
    return [
        cell
        for cell in cells
        if cell.cell_type == "code" and not any(tag in _NOT_OURS for tag in cell.metadata.get("tags", ()))
    ]


def _number_of_the_failed(cells: "Sequence[nbformat.NotebookNode]") -> int:
    """The number of the cell that raised."""
    own = _own(cells)
    return next((n for n, cell in enumerate(own, 1) if _status(cell) == "failed"), len(own))


def _first_unfinished(asked: "Sequence[nbformat.NotebookNode]", executed: "Sequence[nbformat.NotebookNode]") -> int:
    """The number of the first code cell that has not run to its end; 0 when all have.

    A cell that raises SystemExit ends the kernel. Papermill takes it for a good end, and leaves it out.
    """
    done = iter(_own(executed))
    for number, cell in enumerate(_own(asked), 1):
        found = next(done, None)
        exits = found is not None and any(one.get("ename") == "SystemExit" for one in found.outputs)
        if found is None or found.source != cell.source or exits or _status(found) == "pending":
            return number
    return 0


def _status(cell: "nbformat.NotebookNode") -> str:
    return str(cell.metadata.get("papermill", {}).get("status"))


def _mark_the_last(output: Path) -> int:
    """Mark the cell that was running as failed, and those behind it as not run; returns the cell's number.

    Papermill calls all of them completed when a kernel dies.
    """
    import nbformat

    notebook = nbformat.read(output, as_version=4)
    running = 0
    for number, cell in enumerate(_own(notebook.cells), 1):
        known = cell.metadata.setdefault("papermill", {})
        if known.get("start_time"):
            running = number
        else:
            known["status"] = "pending"
    if running:
        _own(notebook.cells)[running - 1].metadata.papermill.status = "failed"
    nbformat.write(notebook, output)
    return running


def _last_lines(traceback: Sequence[str]) -> str:
    """The end of a cell's traceback, indented, without colours; empty when there is none."""
    lines = [line for line in _ANSI.sub("", "\n".join(traceback)).splitlines() if line.strip()]
    return "".join(f"\n        {printable(line)}" for line in lines[-_SHOWN_TRACEBACK_LINES - 1 : -1])


def facts(notebook: "nbformat.NotebookNode") -> dict[str, Any]:
    """The values of the last Facts that an executed notebook showed; empty when it showed none."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if FACTS_TYPE in data:
                found = dict(data[FACTS_TYPE])
    return found

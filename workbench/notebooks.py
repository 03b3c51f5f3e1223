"""Runs notebooks as tests: executes them with papermill, with parameters and deadlines.

A notebook that fails is saved with its output before the exception is raised.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import nbformat

CELL_TIMEOUT_S = 300
START_TIMEOUT_S = 60
FACTS_TYPE = "application/vnd.workbench.facts+json"


class NotebookFailedError(WorkbenchError):
    """A notebook did not run to its end; `output` is the path at which it was saved with its output."""

    def __init__(self, message: str, output: Path) -> None:
        super().__init__(message)
        self.output = output


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
    import papermill  # here, because it takes a second and every other command would pay it
    from papermill.exceptions import PapermillException, PapermillExecutionError

    output_dir.mkdir(parents=True, exist_ok=True)
    output = output_dir / notebook.name
    try:
        executed = papermill.execute_notebook(
            str(notebook),
            str(output),
            parameters=dict(parameters or {}),
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=cell_timeout_s,
            start_timeout=START_TIMEOUT_S,
            cwd=str(notebook.parent),
        )
    except PapermillExecutionError as error:
        raise NotebookFailedError(
            f"{notebook.name}, cell {error.exec_count}: {error.ename}: {error.evalue}; the notebook is in {output}",
            output,
        ) from None
    except (PapermillException, RuntimeError, OSError, TimeoutError) as error:
        raise NotebookFailedError(f"{notebook.name}: {error}; the notebook is in {output}", output) from None
    return NotebookResult(notebook.stem, output, facts(executed))


def facts(notebook: "nbformat.NotebookNode") -> dict[str, Any]:
    """The values of the last Facts that an executed notebook showed; empty when it showed none."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if FACTS_TYPE in data:
                found = dict(data[FACTS_TYPE])
    return found

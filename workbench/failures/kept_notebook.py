"""Keeps a failure mode as a notebook: it brings the mode about again, and asserts exactly what was promised of it.

What it writes is a test: `workbench notebooks run FILE` executes it with papermill, and it fails when an endpoint no
longer keeps the promise, and in another way when the fault never fired.
"""

from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.failures.catalogue import PROMISES, Failure
from workbench.failures.experiments import experiment_of


class NotebookExistsError(WorkbenchError):
    """There is a file of this name already; it is somebody's work, and is not written over."""


def write(failure: Failure, path: Path) -> Path:
    """Write the notebook of a mode. Raises NotebookExistsError, NotProvokedError, OSError."""
    import nbformat  # here, because it takes a while, and every command would pay for it

    experiment_of(failure.name)  # a notebook that cannot run is not kept
    made = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        },
        cells=[
            nbformat.v4.new_markdown_cell(_story(failure)),
            nbformat.v4.new_code_cell(_PARAMETERS.format(name=failure.name), metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(_RUN),
            nbformat.v4.new_markdown_cell(f"What must hold: {failure.invariant}"),
            nbformat.v4.new_code_cell(_ASSERT.format(promise=failure.promise)),
            nbformat.v4.new_code_cell(_FACTS),
        ],
    )
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell-{number}"  # not random, so that two notebooks of one mode are the same file
    text = nbformat.writes(made) + "\n"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise NotebookExistsError(f"{path} exists already: give another name, or remove it first") from None
    return path


def _story(failure: Failure) -> str:
    return "\n\n".join(
        (
            f"# {failure.name}",
            failure.symptom,
            f"**First guess.** {failure.first_guess}",
            f"**Cause.** {failure.cause}",
            f"**Find it in your own system.** {failure.find}",
            f"**Promised**: {failure.promise}, that is, {PROMISES[failure.promise]}.",
        )
    )


_PARAMETERS = '''target = "local"  # faults are injected on the local cloud only
failure = "{name}"'''

_RUN = """import workbench
from workbench.notebooks import Facts

with workbench.connect(target) as wb:
    result = wb.failures.run(failure)
result"""

_ASSERT = """result.require()  # a fault that never fired is told as that
assert result.verdict == "{promise}", str(result)
{{badge.name: badge.detail for badge in result.badges()}}"""

_FACTS = """Facts({"failure": result.name, "verdict": result.verdict, "said": result.said})"""

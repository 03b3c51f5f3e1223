"""The `workbench` command: one function a subcommand, each a thin layer over what notebooks import."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from workbench import prerequisites

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run and debug AI jobs in Modal Sandboxes, on this machine or on Modal.",
)

_TEST_TIMEOUT_S = 85 * 60


@app.command()
def test(
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to pytest, e.g. `-k volumes`.")] = None,
) -> None:
    """Check prerequisites, then run the whole test suite."""
    _prepare(prerequisites.TEST)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "pytest", *(arguments or [])]
    raise typer.Exit(subprocess.run(command, cwd=root, timeout=_TEST_TIMEOUT_S, check=False).returncode)


def _prepare(wanted: tuple[prerequisites.Prerequisite, ...]) -> None:
    try:
        prerequisites.ensure(wanted, say=lambda text: typer.echo(text, err=True))
    except prerequisites.PrerequisitesMissingError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def main() -> None:
    """Run the command line."""
    app()

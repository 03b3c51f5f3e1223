"""The `workbench` command: one module a group of commands, each a thin layer over what notebooks import."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli import bench, cloud, contract, demo, deploy, doctor, lab, notebooks, run, runs, soak, volume
from workbench.cli.common import failing, interruptible, prepare
from workbench.prerequisites import TEST

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run and debug AI jobs in Modal Sandboxes, on this machine or on Modal. Start with `workbench demo`.",
)
app.command()(demo.demo)
app.command()(lab.lab)
app.command()(deploy.deploy)
app.command()(deploy.endpoint)
app.command()(contract.contract)
app.add_typer(run.app, name="run")
app.add_typer(runs.app, name="runs")
app.add_typer(volume.app, name="volume")
app.add_typer(cloud.app, name="cloud")
app.add_typer(notebooks.app, name="notebooks")
app.command()(bench.bench)
app.add_typer(soak.app, name="soak")
app.command()(doctor.doctor)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to pytest, e.g. `-k volumes`.")] = None,  # noqa: PT028  # a command, not a test
) -> None:
    """Check prerequisites, then run the whole test suite, notebooks and browser included."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "tests").is_dir():
        typer.echo("error: the tests are not installed; run this in a checkout of the project", err=True)
        raise typer.Exit(2)
    with failing():
        prepare(TEST)
    os.chdir(root)
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *(arguments or [])])  # noqa: S606  # signals reach it itself


def main() -> None:
    """Run the command line."""
    interruptible()
    app(prog_name="workbench")

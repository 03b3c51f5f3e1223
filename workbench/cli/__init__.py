"""The `workbench` command: one module a group of commands, each a thin layer over what notebooks import."""

import typer

from workbench.cli import bench, cloud, contract, demo, deploy, doctor, lab, notebooks, run, runs, soak, tests, volume
from workbench.cli.common import interruptible
from workbench.cli.streams import standard_streams

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
app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(tests.run_tests)


def main() -> None:
    """Run the command line."""
    interruptible()
    with standard_streams():
        app(prog_name="workbench")

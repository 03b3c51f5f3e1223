"""The `workbench` command: one module for each group of commands, all thin layers over the API of the notebooks."""

import typer

from workbench.cli import (
    bench_command,
    check_command,
    cloud_commands,
    contract_commands,
    demo_command,
    deploy_commands,
    doctor_command,
    failures_commands,
    lab_command,
    next_commands,
    notebooks_command,
    parity_command,
    run_commands,
    runs_commands,
    soak_commands,
    tests_command,
    volume_commands,
)
from workbench.cli.common import interruptible
from workbench.cli.standard_streams import standard_streams

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run and debug AI jobs in Modal Sandboxes, on this machine or on Modal. Start with `workbench demo`.",
)
app.command()(demo_command.demo)
app.command()(lab_command.lab)
app.command()(deploy_commands.deploy)
app.command()(deploy_commands.endpoint)
app.command()(contract_commands.contract)
app.add_typer(next_commands.app, name="next")
app.add_typer(run_commands.app, name="run")
app.add_typer(runs_commands.app, name="runs")
app.add_typer(volume_commands.app, name="volume")
app.add_typer(cloud_commands.app, name="cloud")
app.add_typer(failures_commands.app, name="failures")
app.add_typer(notebooks_command.app, name="notebooks")
app.command()(bench_command.bench)
app.add_typer(soak_commands.app, name="soak")
app.command()(check_command.check)
app.command()(parity_command.parity)
app.command()(doctor_command.doctor)
app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    tests_command.run_tests
)


def main() -> None:
    """Run the command line."""
    interruptible()
    with standard_streams():
        app(prog_name="workbench")

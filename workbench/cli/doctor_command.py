"""`workbench doctor`: checks whether this machine has everything that the local cloud needs."""

import typer

from workbench.cli.common import JsonOption, print_json, table_console
from workbench.local_cloud import State, default_state_dir
from workbench.machine import checks as examination

_WIDTH = 120  # characters of a table that is not printed to a terminal
_COLOURS = {"ok": "green", "info": "cyan", "warn": "yellow", "fail": "bold red"}


def doctor(as_json: JsonOption = False) -> None:
    """Check whether this machine has what the local cloud needs, and show the command that fixes what is missing.

    Nothing is changed. Exit code 0 when no check fails, 1 otherwise; warnings are not failures. Isolation is checked by
    starting one sandbox.
    """
    findings = list(examination.examine(State(default_state_dir())))
    ok = all(finding.status != "fail" for finding in findings)
    if as_json:
        print_json({"ok": ok, "checks": [finding.facts() for finding in findings]})
    else:
        _show(findings)
    if not ok:
        raise typer.Exit(1)


def _show(findings: list[examination.Finding]) -> None:
    """Print a table, and below it the commands of the fixes, on lines that are not wrapped, for copying."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        status = Text(finding.status, style=_COLOURS[finding.status])
        table.add_row(Text(finding.name), status, Text(finding.found))
    console = table_console(_WIDTH)
    console.print(table)
    for finding in findings:
        if finding.fix:
            style = _COLOURS[finding.status]
            console.print(Text.assemble((f"{finding.name}: ", style), finding.fix), soft_wrap=True)
    failed = sum(finding.status == "fail" for finding in findings)
    console.print("Nothing is in the way of the local cloud." if not failed else f"{failed} of these must be fixed.")

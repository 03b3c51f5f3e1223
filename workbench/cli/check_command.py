"""`workbench check`: measures a deployed endpoint by the checklist, line by line."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from modal_app import DEFAULT_APP_NAME
from workbench.cli.common import (
    AppNameOption,
    JsonOption,
    TargetOption,
    check_place,
    known,
    prepare,
    print_json,
    say,
    table_console,
)

_WIDTH = 120
_COLOURS = {"ok": "green", "partly": "cyan", "skipped": "yellow", "fail": "bold red"}


def check(
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    through: Annotated[
        str, typer.Option(help="The address by which callers reach it: of a proxy in front, which is checked too.")
    ] = "",
    cold_start_s: Annotated[float, typer.Option(min=0, help="Seconds allowed until a first output.")] = 15,
    upstream_s: Annotated[
        float | None, typer.Option(min=1, help="For how many seconds the proxy or platform in front waits.")
    ] = None,
    rotation: Annotated[
        bool, typer.Option("--rotation", help="Also rotate a secret, on an app of the check's own.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(dir_okay=False, help="Write JUnit XML to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a deployed endpoint: secrets, volumes, paths, streaming, sandboxes, time-outs, tenants and errors.

    Each line says what was measured and what to do. What a target cannot show is skipped, with the reason. It runs five
    short jobs in projects of its own, and removes them, also at Ctrl-C. Exit code 0: sound; 1: something was found; 3:
    it could not be done.

    workbench check

    workbench check --target https://example.modal.run --upstream-s 300 --junit check.xml
    """
    from workbench.checks.checklist import COST
    from workbench.checks.lines import as_junit
    from workbench.session import connect

    check_place(junit)
    say(f"checking {target}: {COST}")
    try:
        if target == "local":
            prepare()
        with connect(target, app_name=app_name) as workbench:
            report = workbench.check(
                through=through,
                cold_start_s=cold_start_s,
                upstream_s=upstream_s,
                rotation=rotation,
                on_line=lambda line: say(f"{line.status:<8} {line.name}"),
            )
        if junit is not None:
            junit.write_text(as_junit(report), encoding="utf-8")
    except KeyboardInterrupt:
        say("interrupted: what was started is taken back")
        raise typer.Exit(130) from None
    except Exception as error:
        message = str(error) if isinstance(error, ValueError) else known(error)
        if message is None:
            raise
        say(f"error: {message}")
        raise typer.Exit(3) from None
    if as_json:
        print_json(report.model_dump() | {"sound": report.sound})
    else:
        _show(list(report.rows()), report.facts())
    if not report.sound:
        sys.exit(1)


def _show(rows: list[tuple[str, ...]], facts: list[tuple[str, str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading, *lines = rows
    table = Table(*heading, box=box.SIMPLE_HEAD)
    for name, status, evidence, fix in lines:
        table.add_row(name, Text(status, style=_COLOURS[status]), Text(evidence), Text(fix))
    console = table_console(_WIDTH)
    console.print(table)
    for name, value in facts:
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True, markup=False)

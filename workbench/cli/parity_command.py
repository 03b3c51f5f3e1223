"""`workbench parity`: tries Modal's documented behaviours on two targets and compares what is seen, row by row."""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.common import JsonOption, check_place, prepare, print_json, say, table_console

if TYPE_CHECKING:
    from workbench.parity.catalogue import Row

_WIDTH = 160
_COLOURS = {"equal": "green", "known": "yellow", "different": "bold red", "not run": "dim"}


class Against(StrEnum):
    """The second target."""

    LOCAL = "local"
    MODAL = "modal"


def parity(
    target: Annotated[
        Against,
        typer.Option(help="What a local cloud is compared with: another one of other settings, or Modal (a token)."),
    ] = Against.LOCAL,
    area: Annotated[list[str] | None, typer.Option(help="Only the rows of this area; may be given again.")] = None,
    row: Annotated[
        list[str] | None, typer.Option(help="Only this row, or it as well, as --list names it; may be given again.")
    ] = None,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the comparison to this page.")] = None,
    list_rows: Annotated[bool, typer.Option("--list", help="List the rows, and run nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Try what Modal documents with the real SDK on two targets, and compare what is seen.

    Each row is a behaviour: of functions, classes, web functions, sandboxes, volumes, dicts, queues, secrets, images or
    lookups. The first target is a new local cloud; the second another one whose clock, users and first answers are
    others, or Modal itself. What a row makes is removed. Exit code 0: no row differs, but those in the list of
    differences; 1: some do, or were not run; 3: it could not be done.

    workbench parity --area sandboxes --area volumes

    workbench parity --target modal --html parity.html
    """
    from workbench.errors import WorkbenchError
    from workbench.parity.catalogue import cost
    from workbench.parity.suite import chosen, compare

    check_place(html)
    try:
        rows = chosen(area or (), row or ())
        if list_rows:
            _list(rows, as_json=as_json)
            return
        say(f"comparing a local cloud with {'Modal' if target is Against.MODAL else 'another one'}: {cost(rows)}")
        prepare()
        report = compare(
            rows,
            with_modal=target is Against.MODAL,
            on_row=lambda side, one, seen: say(f"{side:<30} {one.key}{' (not run)' * bool(seen.missing)}"),
        )
        if html is not None:
            html.write_text(report.page(), encoding="utf-8")
    except (WorkbenchError, OSError) as error:
        say(f"error: {error}")
        raise typer.Exit(3) from None
    except KeyboardInterrupt:
        say("interrupted: what was started is taken back")
        raise typer.Exit(130) from None
    if as_json:
        print_json(report.model_dump_json())
    else:
        _show(list(report.cells()), report.facts())
    if not report.alike:
        sys.exit(1)


def _list(rows: "tuple[Row, ...]", *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print_json(row.model_dump_json())
        return
    cells: list[tuple[str, ...]] = [("row", "behaviour"), *((row.key, row.behaviour) for row in rows)]
    _table(cells, lambda cell: cell)


def _show(cells: list[tuple[str, ...]], facts: list[tuple[str, str]]) -> None:
    from rich.text import Text

    _table(cells, lambda cell: Text(cell, style=_COLOURS.get(cell, "")))
    for name, value in facts:
        table_console(_WIDTH).print(f"{name}: {value}", highlight=False, soft_wrap=True, markup=False)


def _table(cells: list[tuple[str, ...]], shown: "Callable[[str], Any]") -> None:
    from rich import box
    from rich.table import Table

    heading, *lines = cells
    table = Table(*heading, box=box.SIMPLE_HEAD)
    for line in lines:
        table.add_row(*map(shown, line))
    table_console(_WIDTH).print(table)

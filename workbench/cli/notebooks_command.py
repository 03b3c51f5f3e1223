"""`workbench notebooks`: runs the notebooks as regression tests."""

import json
import math
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench import notebooks as books
from workbench.cli.common import (
    JsonOption,
    TargetOption,
    check_place,
    failing,
    prepare,
    print_json,
    say,
    table_console,
)

if TYPE_CHECKING:
    from workbench.notebook_suite import Ran

_WIDTH = 100
_EXPONENT = re.compile(r"-?\d+(\.\d+)?[eE][-+]?\d+")
app = typer.Typer(no_args_is_help=True, help="The notebooks, run as regression tests.")


@app.command(name="list")
def list_() -> None:
    """List the notebooks."""
    with failing():
        for path in books.find([]):
            typer.echo(path.stem)


@app.command()
def run(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of notebooks or their beginnings, e.g. 02; all if none is given.")
    ] = None,
    target: TargetOption = "local",
    output_dir: Annotated[
        Path | None, typer.Option(help="Where to save the executed notebooks; a new directory if not given.")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            help="A parameter of the notebooks as name=value, the value as JSON or text. May be repeated.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=8, help="How many run at once, each in a process of its own.")] = 1,
    junit: Annotated[Path | None, typer.Option(help="A file that gets the results as JUnit XML.")] = None,
    html: Annotated[
        Path | None, typer.Option(file_okay=False, help="A directory that gets each executed notebook as a page.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run notebooks with papermill and print the facts that they assert.

    Exit codes: 1 when a cell raised, 3 when an experiment's fault never fired, 4 when a kernel died or was ended, 5
    when a cell was late; of several failures, the first one's.

    workbench notebooks run 06 07 --workers 2 --junit notebooks.xml --html pages
    """
    from workbench import notebook_suite as suite

    check_place(junit)
    ran: list[suite.Ran] = []
    began = time.monotonic()
    with failing():
        if target == "local":
            prepare()
        parameters: dict[str, Any] = {"target": target, **dict(_parameter(text) for text in parameter or [])}
        found = books.find(names or [])
        directory = output_dir or Path(tempfile.mkdtemp(prefix="workbench-notebooks-"))
        for one in suite.run_all(found, directory, parameters, workers=workers, on_begin=lambda name: say(f"{name} …")):
            ran.append(one)
            _report(one, as_json=as_json)
        if junit is not None:
            junit.write_text(suite.as_junit(ran, took_s=time.monotonic() - began), encoding="utf-8")
        if html is not None:
            suite.write_html(ran, html)
    if len(ran) > 1 and not as_json:
        _table(ran, time.monotonic() - began)
    raise typer.Exit(next((suite.EXIT_CODES[one.why] for one in ran if one.why is not None), 0))


def _report(one: "Ran", *, as_json: bool) -> None:
    facts = one.facts if one.ok else {"error": one.error}
    if as_json:
        print_json(
            {
                "notebook": one.name,
                "ok": one.ok,
                "why": one.why,
                "seconds": round(one.seconds, 2),
                "facts": facts,
                "output": str(one.output),
            }
        )
        return
    typer.echo(f"{'passed' if one.ok else 'FAILED'}  {one.name}  {one.seconds:.1f} s  {one.output}")
    for key, value in facts.items():
        typer.echo(f"        {key}: {value}")


def _table(ran: "list[Ran]", took_s: float) -> None:
    """All notebooks at one look, the slowest first."""
    from rich import box
    from rich.table import Table

    table = Table("notebook", "", "s", box=box.SIMPLE, pad_edge=False)
    for one in sorted(ran, key=lambda one: -one.seconds):
        table.add_row(one.name, "passed" if one.ok else f"FAILED: {one.why}", f"{one.seconds:.1f}")
    table_console(_WIDTH).print(table)
    say(f"{sum(one.ok for one in ran)} of {len(ran)} passed in {took_s:.0f} s")


def _parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise typer.BadParameter(f"'{text}' is not name=value")
    if _EXPONENT.fullmatch(value):  # an id such as 12e4567: no number that anybody writes here
        return name, value
    try:
        return name, json.loads(value, parse_constant=_refuse, parse_float=_finite)
    except ValueError:
        return name, value


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError(number)
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)

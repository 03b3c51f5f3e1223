"""`workbench notebooks`: runs the notebooks as regression tests."""

import json
import re
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench import notebooks as books
from workbench.cli.common import JsonOption, TargetOption, failing, prepare, print_json, say

_EXIT_CODES: dict[books.Why, int] = {"cell": 1, "fault never fired": 3, "kernel": 4, "timeout": 5}
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
    as_json: JsonOption = False,
) -> None:
    """Run notebooks with papermill and print the facts that they assert.

    Exit codes: 1 when a cell raised, 3 when an experiment's fault never fired, 4 when a kernel died or was ended, 5
    when a cell was late; of several failures, the first one's.
    """
    with failing():
        if target == "local":
            prepare()
        parameters: dict[str, Any] = {"target": target, **dict(_parameter(text) for text in parameter or [])}
        found = books.find(names or [])
        directory = output_dir or Path(tempfile.mkdtemp(prefix="workbench-notebooks-"))
        code = 0
        for path in found:
            say(f"{path.stem} …")
            started = time.monotonic()
            try:
                result = books.run(path, output_dir=directory, parameters=parameters)
            except books.NotebookFailedError as error:
                code = code or _EXIT_CODES[error.why]
                _report(
                    path.stem, False, time.monotonic() - started, {"error": str(error)}, error.output, as_json=as_json
                )
                continue
            _report(path.stem, True, time.monotonic() - started, result.facts, result.output, as_json=as_json)
    raise typer.Exit(code)


def _report(name: str, ok: bool, seconds: float, facts: dict[str, Any], output: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"notebook": name, "ok": ok, "seconds": round(seconds, 2), "facts": facts, "output": str(output)})
        return
    typer.echo(f"{'passed' if ok else 'FAILED'}  {name}  {seconds:.1f} s  {output}")
    for key, value in facts.items():
        typer.echo(f"        {key}: {value}")


def _parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise typer.BadParameter(f"'{text}' is not name=value")
    if _EXPONENT.fullmatch(value):  # an id such as 12e4567: no number that anybody writes here
        return name, value
    try:
        return name, json.loads(value, parse_constant=_refuse)
    except ValueError:
        return name, value


def _refuse(constant: str) -> None:
    raise ValueError(constant)

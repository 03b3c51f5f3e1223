"""`workbench failures`: failure modes by what one sees, and the experiments that show them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import JsonOption, TargetOption, failing, prepare, print_json, say, table_console

if TYPE_CHECKING:
    from workbench.failures.catalogue import Failure
    from workbench.failures.results import FailureResult

_WIDTH = 120
app = typer.Typer(
    no_args_is_help=True,
    help="What goes wrong with AI jobs in sandboxes behind a stream: look it up, and see it happen.",
)


@app.command(name="list")
def list_(
    words: Annotated[list[str] | None, typer.Argument(help="Words of a symptom, a cause or an error text.")] = None,
    family: Annotated[
        str | None,
        typer.Option(help="streaming, model-wire, model-meaning, persistence, time, life or security."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List failure modes: all of them, or those in whose texts the words are.

    workbench failures list

    workbench failures list "nothing, then everything at once"
    """
    from workbench.failures.catalogue import FAMILIES, PROMISES, search
    from workbench.failures.experiments import EXPERIMENTS

    if family is not None and family not in FAMILIES:
        raise typer.BadParameter(f"there is no family '{family}': there is {', '.join(FAMILIES)}")
    found = search([part for word in words or [] for part in word.split()], family=family)
    if as_json:
        print_json([{**one.model_dump(), "runs": one.name in EXPERIMENTS} for one in found])
    if not found:
        say("no failure mode has these words: try fewer, or `workbench failures list`")
        raise typer.Exit(1)
    if as_json:
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "promise", "runs", "what one sees", box=box.SIMPLE, pad_edge=False)
    shown = ""
    for one in found:
        if one.family != shown:
            table.add_section()
            table.add_row(Text(one.family, style="bold"), "", "", "")
            shown = one.family
        table.add_row(
            one.name,
            one.promise,
            "yes" if one.name in EXPERIMENTS else "",
            Text(one.symptom.split(". ")[0].rstrip(".")),
        )
    console = table_console(_WIDTH)
    console.print(table)
    for promise, meaning in PROMISES.items():
        console.print(f"{promise}: {meaning}", highlight=False)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name or an alias, as `list` has them.")], as_json: JsonOption = False
) -> None:
    """Tell all about one failure mode: what one sees, why, how to find it, and what holds here. Changes nothing."""
    from workbench.failures.catalogue import find
    from workbench.failures.hardenings import serving

    with failing():
        one = find(name)
    if as_json:
        print_json({**one.model_dump(), "hardenings": [hardening.name for hardening in serving(one.name)]})
    else:
        typer.echo("\n".join(_page(one)))


@app.command()
def hardenings(as_json: JsonOption = False) -> None:
    """List what keeps the promises at our endpoint: each hardening, and the modes that are not kept without it.

    workbench failures hardenings
    """
    from dataclasses import asdict

    from workbench.failures.hardenings import HARDENINGS

    if as_json:
        print_json([{**asdict(one), "serves": sorted(one.serves)} for one in HARDENINGS.values()])
        return
    from rich import box
    from rich.table import Table

    table = Table("hardening", "what it does", "serves", box=box.SIMPLE, pad_edge=False)
    for one in HARDENINGS.values():
        table.add_row(one.name, one.says, ", ".join(sorted(one.serves)))
    table_console(_WIDTH).print(table)


@app.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(help="Names or aliases.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that can be brought about.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="A directory that gets each result as NAME.json, for `failures verify`.")
    ] = None,
    at_once: Annotated[
        int, typer.Option(min=1, max=8, help="How many may be under way; what is not shown so is run again by itself.")
    ] = 3,
    target: TargetOption = "local",
    as_json: JsonOption = False,
) -> None:
    """Bring failure modes about at an obvious endpoint and at ours, and say what became of each.

    Both are apps of the lab's own; yours is not touched. Exit code 0: the obvious one was harmed and ours kept its
    promise; 1: not so; 3: a fault never fired, so that nothing is known.

    workbench failures run missing-commit
    """
    from workbench.failures.catalogue import find
    from workbench.failures.experiments import EXPERIMENTS
    from workbench.session import connect

    if bool(names) == everything:
        raise typer.BadParameter("give names, or --all")
    results = []
    with failing():
        chosen = sorted(EXPERIMENTS) if everything else [find(name).name for name in names or []]
        prepare()
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
        with connect(target) as workbench:
            for result in workbench.failures.run_many(chosen, at_once=at_once, on_step=say):
                results.append(result)
                say(f"{len(results)} of {len(chosen)}: {result.name}")
                if keep is not None:
                    kept = keep / f"{result.name}.json"
                    kept.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
                _print(result, as_json=as_json)
        results.sort(key=lambda one: chosen.index(one.name))
    _end_with(results, table=not as_json and len(results) > 1)


@app.command()
def verify(
    files: Annotated[list[Path], typer.Argument(help="Results that `run --keep` has written.")],
    as_json: JsonOption = False,
) -> None:
    """Judge kept results again, without a cloud: what was seen is in the file, the verdict is made anew.

    Exit codes as of `run`; 2 for a file that is no result.

    workbench failures verify kept/*.json
    """
    from pydantic import ValidationError

    from workbench.failures.catalogue import UnknownFailureError
    from workbench.failures.results import FailureResult

    results = []
    with failing():
        for file in files:
            try:
                result = FailureResult.model_validate_json(file.read_bytes()).again()
                result.badges()  # asks for all that a verdict needs
                results.append(result)
            except OSError as error:
                raise typer.BadParameter(f"{file}: {error.strerror}") from None
            except (ValidationError, UnknownFailureError, LookupError, TypeError, AttributeError):
                raise typer.BadParameter(f"{file}: it is no result of `workbench failures run`") from None
        for result in results:
            _print(result, as_json=as_json)
    _end_with(results, table=not as_json and len(results) > 1)


@app.command()
def notebook(
    name: Annotated[str, typer.Argument(help="A name or an alias.")],
    file: Annotated[Path | None, typer.Argument(help="Where to write it; by default NAME.ipynb here.")] = None,
) -> None:
    """Write a notebook that brings one failure mode about and asserts what holds: a test that guards against it.

    workbench failures notebook missing-commit

    workbench notebooks run missing-commit.ipynb
    """
    from workbench.failures.catalogue import find
    from workbench.failures.kept_notebook import write

    with failing():
        failure = find(name)
        written = write(failure, file or Path(f"{failure.name}.ipynb"))
    typer.echo(f"{written}: run it with `workbench notebooks run {written}`")


@app.command()
def reset(target: TargetOption = "local", as_json: JsonOption = False) -> None:
    """Take back whatever experiments have left on the local cloud: their fault rules, and the lab's two apps."""
    from workbench.session import connect

    with failing(), connect(target) as workbench:
        left = workbench.failures.reset()
    if as_json:
        print_json({"taken_back": left})
    else:
        typer.echo("\n".join(f"taken back: {one}" for one in left) or "nothing was left")


def _print(result: "FailureResult", *, as_json: bool) -> None:
    if as_json:
        print_json(result.model_dump())
    else:
        typer.echo(str(result))


def _end_with(results: "Sequence[FailureResult]", *, table: bool) -> None:
    """Tell many results at one look, and end with the code that they have together."""
    if table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        drawn = Table("name", "promise", "verdict", "shown", "s", box=box.SIMPLE, pad_edge=False)
        for one in results:
            shown = Text("yes") if one.shown else Text("NO", style="bold red")
            drawn.add_row(one.name, one.promise, one.verdict or one.status, shown, f"{one.took_s:.1f}")
        table_console(_WIDTH).print(drawn)
        say(f"{sum(one.shown for one in results)} of {len(results)} shown")
    if any(one.status == "invalid" for one in results):
        sys.exit(3)
    if not all(one.shown for one in results):
        sys.exit(1)


def _page(one: "Failure") -> list[str]:
    from workbench.failures.catalogue import PROMISES
    from workbench.failures.experiments import EXPERIMENTS
    from workbench.failures.hardenings import ABSENT, serving

    also = f"also: {', '.join(one.aliases)}" if one.aliases else ""
    parts = {
        "what you see": one.symptom,
        "error texts": "; ".join(one.errors),
        "first guess": one.first_guess,
        "cause": one.cause,
        "find it in your system": one.find,
        "the obvious endpoint": one.naive,
        f"ours ({one.promise}: {PROMISES[one.promise]})": one.invariant,
        "what keeps it": "\n  ".join(f"{by.name} ({', '.join(by.where)}): {by.says}" for by in serving(one.name))
        or ABSENT.get(one.name, ""),
        "how it is provoked": one.provoked,
        "looks like": ", ".join(one.looks_like),
        "where it was met": " ".join([one.story, *(f"[{link.what}: {link.says}]" for link in one.links)]).strip(),
        "how well the cause is known": ", ".join(one.fidelity),
    }
    lines = [one.name, f"{one.family} {also}".strip(), ""]
    for title, text in parts.items():
        if text:
            lines += [f"{title}:", f"  {text}", ""]
    runs = f"see it happen: workbench failures run {one.name}" if one.name in EXPERIMENTS else "nothing runs it yet"
    return [*lines, runs]

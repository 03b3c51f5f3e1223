"""`workbench failures`: failure modes by what one sees, and the experiments that show them."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import JsonOption, TargetOption, failing, prepare, print_json, say, table_console

if TYPE_CHECKING:
    from workbench.failures.catalogue import Failure

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
        return
    if not found:
        say("no failure mode has these words: try fewer, or `workbench failures list`")
        raise typer.Exit(1)
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

    with failing():
        one = find(name)
    if as_json:
        print_json(one.model_dump())
    else:
        typer.echo("\n".join(_page(one)))


@app.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(help="Names or aliases.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that can be brought about.")] = False,
    target: TargetOption = "local",
    as_json: JsonOption = False,
) -> None:
    """Bring failure modes about at an obvious endpoint and at ours, and say what became of each.

    Both are apps of the lab's own; yours is not touched. Exit code 0: the obvious one was harmed and ours kept its
    promise; 1: not so; 3: a fault never fired, so that nothing is known.

    workbench failures run missing-commit
    """
    from workbench.failures.experiments import EXPERIMENTS
    from workbench.session import connect

    if bool(names) == everything:
        raise typer.BadParameter("give names, or --all")
    with failing():
        prepare()
        with connect(target) as workbench:
            results = [
                workbench.failures.run(name, on_step=say)
                for name in (sorted(EXPERIMENTS) if everything else names or [])
            ]
    for result in results:
        if as_json:
            print_json(result.model_dump())
        else:
            typer.echo(str(result))
    if any(result.status == "invalid" for result in results):
        sys.exit(3)
    if not all(result.shown for result in results):
        sys.exit(1)


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


def _page(one: "Failure") -> list[str]:
    from workbench.failures.catalogue import PROMISES
    from workbench.failures.experiments import EXPERIMENTS

    also = f"also: {', '.join(one.aliases)}" if one.aliases else ""
    parts = {
        "what you see": one.symptom,
        "error texts": "; ".join(one.errors),
        "first guess": one.first_guess,
        "cause": one.cause,
        "find it in your system": one.find,
        "the obvious endpoint": one.naive,
        f"ours ({one.promise}: {PROMISES[one.promise]})": one.invariant,
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

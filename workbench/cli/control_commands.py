"""`workbench cloud fault`, `clock` and `coverage`: make the local cloud fail, move its clock, list its RPCs."""

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from workbench.cli.common import JsonOption, failing, print_json
from workbench.local_cloud import CloudStartFailedError, State, default_state_dir

if TYPE_CHECKING:
    from workbench.cloud_control.controls import Clock, CloudControl, Faults

fault = typer.Typer(
    no_args_is_help=True, help="Make the local cloud fail by rules: which calls, whose, when, and in which way."
)
clock = typer.Typer(
    no_args_is_help=True,
    help="The local cloud's clock, and those of its apps, which can be moved forward to timeouts of minutes and days.",
)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


# Imported only when used, here and below: other commands must not wait for an HTTP client and the rules' models.
def _control() -> "CloudControl":
    from workbench.cloud_control.controls import CloudControl

    running = State(default_state_dir()).running()
    if running is None:
        raise CloudStartFailedError("the local cloud does not run; start it with `workbench cloud start`")
    return CloudControl(running.http_url, running.env())


def _faults() -> "Faults":
    from workbench.cloud_control.controls import Faults

    return Faults(_control())


def _clock(app: str | None) -> "Clock":
    from workbench.cloud_control.controls import Clock

    return Clock(_control(), app)


@fault.command()
def add(
    settings: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE…", help="Fields of the rule, as listed above."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Put a rule into force and print its id.

    Where it fails: at=call (before an RPC is executed), answer (the RPC is executed, but its answer is lost), stream
    (while it streams), commit (of a mount), web (a response of a web function). Whose calls: rpc=, app=, sandbox=,
    path=, argv= (the words of a program in a sandbox), each with * as in a shell. When: nth=, times=, probability=
    with seed=, after_messages=; for_s= by the app's clock; lease_s=, after which it is gone unless it was renewed.
    How: delay_s=, status=UNAVAILABLE, kill=exec|sandbox|container, preempt=true with grace_s=, exhaust=memory|disk,
    bytes_per_s=, lose=true, http_status=, buffer_bytes=, cut_after_s=, idle_cut_s=, slice_bytes=.

    workbench cloud fault add at=stream rpc=TaskExecStdioRead after_messages=2 status=UNAVAILABLE times=1

    workbench cloud fault add at=commit lose=true
    """
    with failing():
        rule_id = _faults().add(**_fields(settings))
    if as_json:
        print_json({"rule_id": rule_id})
    else:
        typer.echo(rule_id)


@fault.command(name="list")
def list_(as_json: JsonOption = False) -> None:
    """Show the rules in force, how many calls they have matched, and the newest faults that they have injected."""
    with failing():
        faults = _faults()
        rules, ended, happened = faults.rules(), faults.ended(), faults.happened()
    if as_json:
        found = {"rules": [one.model_dump() for one in rules], "ended": [one.model_dump() for one in ended]}
        print_json({**found, "happened": [one.model_dump() for one in happened]})
        return
    if not rules:
        typer.echo("no rules: `workbench cloud fault add --help` shows how to make one")
    else:
        table = Table("id", "rule", "matched", "injected", box=None)
        for one in rules:
            table.add_row(one.rule_id, str(one.rule), str(one.matched), str(one.injected))
        Console().print(table)
    for event in happened[-10:]:
        typer.echo(f"{event.rule_id}: {event.what} ({', '.join(filter(None, event.subject.values())) or 'nobody'})")


@fault.command()
def clear(
    rule_id: Annotated[
        str | None, typer.Argument(help="The id of one rule; without it, all rules are removed.")
    ] = None,
) -> None:
    """Remove one rule, or all."""
    with failing():
        faults = _faults()
        if rule_id is not None:
            faults.remove(rule_id)
            typer.echo("dropped")
        else:
            typer.echo(f"dropped {faults.clear()}")


AppOption = Annotated[
    str | None, typer.Option("--app", help="Of this app alone, by its name or its id, and not of the whole cloud.")
]


@clock.command()
def show(app: AppOption = None, as_json: JsonOption = False) -> None:
    """Show by how much the local cloud's clock is ahead of real time, and those of apps that were moved further."""
    with failing():
        there = _clock(app)
        at, offset_s = there.time(), there.offset_s()
        apps = there.ahead() if app is None else []
    if as_json:
        print_json({"at": at, "offset_s": offset_s, "apps": [one.model_dump() for one in apps]})
        return
    _tell(offset_s)
    for one in apps:
        typer.echo(f"{one.app} ({one.app_id}, environment {one.environment}): {one.offset_s:g} s ahead of real time")


@clock.command()
def advance(
    by: Annotated[str, typer.Argument(help="By how much, such as 90s, 10m, 24h or 7d.")],
    app: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move the clock forward: timeouts, idle times, schedules and expiry follow at once.

    With --app the clock of that app alone, which nobody else meets: its sandboxes, containers, web functions and
    schedules, and the fault rules that name it in full. Dicts and Queues belong to no app, and go by the whole cloud's.

    `set-back` takes it back. When the local cloud is started again, its clocks show real time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", by.strip())
    if found is None:
        raise typer.BadParameter("give a number with a unit: 90s, 10m, 24h, 7d")
    with failing():
        there = _clock(app)
        there.advance(float(found.group(1)) * _UNITS[found.group(2)])
        offset_s = there.offset_s()
    if as_json:
        print_json({"offset_s": offset_s})
    else:
        _tell(offset_s)


@clock.command("set-back")
def set_back(app: AppOption = None, as_json: JsonOption = False) -> None:
    """Take back all by which a clock was moved: it shows real time, an app's the whole cloud's. What is over stays so.

    Also what a program has moved for a while.
    """
    with failing():
        there = _clock(app)
        there.set_back()
        offset_s = there.offset_s()
    if as_json:
        print_json({"offset_s": offset_s})
    else:
        _tell(offset_s)


def _tell(offset_s: float) -> None:
    typer.echo(f"{offset_s:g} s ahead of real time" if offset_s else "it shows real time")


def coverage(as_json: JsonOption = False) -> None:
    """Show how many of the protocol's RPCs the local cloud implements, and which missing ones were called."""
    with failing():
        found = _control().coverage()
    if as_json:
        print_json(found.model_dump())
        return
    typer.echo(f"{len(found.implemented)} of {len(found.implemented) + len(found.missing)} RPCs are implemented")
    for name, count in sorted(found.asked_for.items()):
        typer.echo(f"called, but not implemented: {name} ({count} times)")
    typer.echo("not there: " + ", ".join(found.missing))


def _fields(settings: list[str]) -> dict[str, Any]:
    """The fields of a rule; raises BadParameter for one that is unknown, empty or given twice."""
    fields: dict[str, Any] = {}
    for name, value in map(_pair, settings):
        if name in fields:
            raise typer.BadParameter(f"{name} is given twice: make two rules, or a pattern such as rpc=Dict*")
        fields[name] = value
    return fields


def _pair(setting: str) -> tuple[str, Any]:
    from workbench.local_cloud import FaultRule, check_word

    name, equals, text = setting.partition("=")
    if not equals:
        raise typer.BadParameter(f"{setting!r} is not NAME=VALUE with one of {', '.join(FaultRule.model_fields)}")
    try:
        check_word("field", name, FaultRule.model_fields)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not text.strip():  # most often a variable of a script that is not set: the rule would mean every call
        raise typer.BadParameter(f"{name} has no value: give one, or leave {name}= out")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text

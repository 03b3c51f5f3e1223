"""`workbench runs`: lists, shows, verifies and labels archived runs; follows, cancels, exports, replays and serves."""

import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modal_app import DEFAULT_APP_NAME
from modal_app.contract.headers import SECRET_HEADER
from modal_app.contract.proof import Check
from workbench.cli.common import (
    AppNameOption,
    EventPrinter,
    JsonOption,
    TargetOption,
    failing,
    print_json,
    say,
    table_console,
)
from workbench.runs.timeline import TOLERANCE_MS
from workbench.text.plain_text import one_line, printable

if TYPE_CHECKING:
    from modal_app.runs.run_records import RunRecord
    from workbench.runs.archive import RunArchive
    from workbench.runs.archived_run import ArchivedRun, RunList
    from workbench.runs.labels import RunLabel
    from workbench.runs.recordings import Recording
    from workbench.session import Workbench

    RunLabels = Mapping[str, RunLabel]

app = typer.Typer(
    no_args_is_help=True,
    help="Runs of the endpoint, whoever started them: list, show, verify, follow, cancel, again, label, export, "
    "replay, serve and bisect.",
)
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN_ID", help="The run's id, as shown by `runs list` and in its events.")
]
_WIDTH = 160  # characters of a table that is not printed to a terminal
_JUST_ENDED_S = 3.0  # the wait for the archive of a run that may just have ended
_ARCHIVED_S = 30.0  # the wait for the archive of a run that this command has started


@contextmanager
def _workbench(target: str, app_name: str) -> "Iterator[Workbench]":
    from workbench.session import connect

    with failing(), connect(target, app_name=app_name) as workbench:
        yield workbench


@app.command(name="list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=2000, help="How many runs to list at most.")] = 20,
    project: Annotated[str, typer.Option(help="Only runs of the project with this UUID.")] = "",
    outcome: Annotated[
        str, typer.Option(help="Only runs that ended this way: done, error for any error, or an error's code.")
    ] = "",
    name: Annotated[str, typer.Option(help="Only runs in whose name all these words are, in any case.")] = "",
    live: Annotated[bool, typer.Option("--live", help="List the runs that go on now instead.")] = False,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """List ended runs, the newest first, e.g. `workbench runs list --outcome error`; with --live, those that go on.

    A run that was given a name or a note, here or in the panel, is listed with it.
    """
    if live and (project or outcome):
        raise typer.BadParameter("--live lists all that go on: leave --project and --outcome out")
    with _workbench(target, app_name) as workbench:
        labels = _labels(workbench, needed=bool(name.split()))
        among = _called(name, labels) if name.split() else None
        if live:
            going = [one for one in workbench.runs.live() if among is None or one.run_id in among]
            _show_live(going[:limit], labels, as_json=as_json)
            return
        found = workbench.runs.list(limit=limit, project=project, outcome=outcome, among=among)
    if as_json:
        for one in found:
            facts = {} if one.bundle is None else one.bundle.model_dump(mode="json", exclude_none=True)
            problem = {"problem": one.problem} if one.problem else {}
            print_json({**facts, "run_id": one.run_id, **problem, **_label_facts(labels, one.run_id)})
    else:
        _show_list(found, labels)


@app.command()
def show(
    run_id: RunArgument,
    events: Annotated[bool, typer.Option("--events", help="Also print its events, including its output.")] = False,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Show an ended run: its facts, how long its steps took, its estimated cost, and whether its proof holds.

    With --json all of this is one object; with --events, a line for each event comes before it.
    """
    with _workbench(target, app_name) as workbench:
        run = workbench.runs.get(run_id, wait_s=_JUST_ENDED_S)
        labels = _labels(workbench)
    checks = run.checks()
    if events:
        printer = EventPrinter(as_json=as_json)
        for event in run.events:
            printer(event)
        printer.rest()
    if as_json:
        print_json(_facts(run, checks) | _label_facts(labels, run_id))
    else:
        if label := " ".join(_name_and_note(labels, run_id)):
            typer.echo(label)
        _show_run(run, checks)


@app.command()
def verify(
    run_id: Annotated[str, typer.Argument(metavar="[RUN_ID]", help="The id of one run.", show_default=False)] = "",
    every: Annotated[bool, typer.Option("--all", help="Verify every run that is still kept.")] = False,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Verify by a run's archive that the endpoint kept its promises, e.g. `workbench runs verify --all`.

    There must be exactly one terminal event and no gap; the exit code, timeouts, the sandbox's end and the commit must
    be as the events say. Exit code 1 when a check fails.
    """
    if bool(run_id) == every:
        raise typer.BadParameter("give a run's id, or --all")
    failed = count = 0
    with _workbench(target, app_name) as workbench:
        archive = workbench.runs
        for one in archive.ids() if every else [run_id]:
            checks = _checks(archive, one, every=every)
            count += 1
            failed += any(not check.ok for check in checks)
            _show_checks(one, checks, as_json=as_json, short=every)
    if every and not as_json:
        typer.echo(f"{count - failed} of {count} runs are proved")
    if failed:
        raise typer.Exit(1)


@app.command()
def follow(
    run_id: RunArgument,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Print a run's events from the first one on, live if it is still going on. Ctrl-C stops printing, not the run.

    The run may have been started by anybody. Exit code 0 for done, 1 for error.
    """
    printer = EventPrinter(as_json=as_json)
    with _workbench(target, app_name) as workbench:
        try:
            run = workbench.attach(run_id)
            for event in run.follow(timeout_s=None):
                printer(event)
            end = run.wait()
        except KeyboardInterrupt:
            say(
                f"left, and the run goes on; when nobody reads it, it ends after its grace period. "
                f"`workbench runs follow {run_id}` returns to it, `workbench runs cancel {run_id}` ends it"
            )
            raise
        finally:
            printer.rest()
    if end.type == "error":
        raise typer.Exit(1)


@app.command()
def cancel(
    run_id: RunArgument,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Cancel a run, whoever started it; returns when its sandbox is gone. A run that has ended stays as it is."""
    with _workbench(target, app_name) as workbench:
        run = workbench.attach(run_id)
        next(iter(run.follow()))  # raises if there is no such run
        run.cancel()
        end = run.wait(0)
    if as_json:
        print_json({"run_id": run_id, "outcome": end.outcome})
    else:
        typer.echo("cancelled" if end.outcome == "cancelled" else f"it had ended already: {end.outcome}")


@app.command()
def export(
    run_id: RunArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The recording to write, e.g. run.zip.")],
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Write a recording of an ended run: its facts, its events, and its exchanges with the model, in one file.

    It can be viewed anywhere. A recording of a Claude job can be executed again with `workbench runs replay`.
    """
    from workbench.runs.recordings import Recording

    with _workbench(target, app_name) as workbench:
        recording = Recording.of(workbench.runs.get(run_id, wait_s=_JUST_ENDED_S))
        recording.save(file)
    facts = {"run_id": run_id, "events": len(recording.events), "exchanges": len(recording.exchanges)}
    if as_json:
        print_json(facts | {"file": str(file)})
    else:
        typer.echo(f"{file}: {facts['events']} events and {facts['exchanges']} exchanges with the model")


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording that `runs export` has written.")],
    user: Annotated[str, typer.Option("--user", help="The user's UUID; without it, a new one.")] = "",
    project: Annotated[str, typer.Option("--project", help="The project's UUID; without it, a new one.")] = "",
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Execute a recorded Claude job again: the real CLI in a real sandbox, with the recording answering for the model.

    No key is needed. If the job asks the model something that was not recorded, it ends, and the difference is printed.
    Exit code 0 for done.
    """
    from workbench.cli.run_commands import follow as follow_own
    from workbench.runs.project import Project
    from workbench.runs.recordings import Recording

    if bool(user) != bool(project):
        raise typer.BadParameter("give --user and --project, or neither")
    with _workbench(target, app_name) as workbench:
        recording = Recording.load(file)
        run = workbench.replay(recording, project=Project(user, project) if project else None)
        end = follow_own(run, EventPrinter(as_json=as_json))
        if end.outcome == "model_error":
            _show_departures(workbench, recording, end.run_id)
    if not as_json and run.request is not None:
        typer.echo(f"run {end.run_id} in project {run.request.project_id}: {end.outcome}")
    if end.type == "error":
        raise typer.Exit(1)


@app.command()
def again(
    run_id: RunArgument,
    user: Annotated[str, typer.Option("--user", help="The user's UUID; without it, the run's own.")] = "",
    project: Annotated[str, typer.Option("--project", help="The project's UUID; without it, the run's own.")] = "",
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Start an ended run once more, with the same request, as a new run of its project. Exit code 0 for done.

    A program's stdin, files' contents and the secrets of MCP servers are not kept: a run that had some is refused.
    """
    from workbench.cli.run_commands import follow as follow_own
    from workbench.runs.project import Project

    if bool(user) != bool(project):
        raise typer.BadParameter("give --user and --project, or neither")
    with _workbench(target, app_name) as workbench:
        run = workbench.again(run_id, project=Project(user, project) if project else None)
        end = follow_own(run, EventPrinter(as_json=as_json))
    if end.type == "error":
        raise typer.Exit(1)


@app.command()
def label(
    run_id: RunArgument,
    name: Annotated[str, typer.Option(help="What the run is called.")] = "",
    note: Annotated[str, typer.Option(help="What there is to say about it.")] = "",
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
) -> None:
    """Name a run and note something about it, for yourself: the archive stays as it is. With neither, forget both."""
    with _workbench(target, app_name) as workbench:
        workbench.labels.label_run(run_id, name=name, note=note)


@app.command()
def serve(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording that `runs export` has written.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 for a free one.")] = 0,
    speed: Annotated[
        float, typer.Option(help="How fast, from 0.1 to 100: 2 is twice as fast as it was recorded.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="End when a client has read the run to its end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer `/generate` on this machine with a recording: its frames, byte for byte, at their recorded times.

    A client of any language can be tested against a run that went wrong. Every valid request begins the recorded run
    anew; all else is as at the endpoint: credentials, Last-Event-ID, keys, DELETE. The secret is WORKBENCH_SECRET; if
    that is not set, one is made and printed. Ctrl-C ends it.
    """
    import structlog

    from workbench.runs.recordings import Recording
    from workbench.runs.serving import serve as served_recording

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for results
    with failing(), served_recording(Recording.load(file), speed=speed, port=port) as served:
        made = {"secret": served.endpoint.secret.get_secret_value()} if served.secret_is_new else {}
        if as_json:
            print_json({"url": served.endpoint.url, "run_id": served.run_id, "events": served.count} | made)
        else:
            typer.echo(f"run {served.run_id}, {served.count} events: POST {served.endpoint.url}/generate")
            typer.echo(f"{SECRET_HEADER}: {made.get('secret', 'as in WORKBENCH_SECRET')}")
        sys.stdout.flush()
        served.wait_read() if once else served.wait_forever()


@app.command()
def bisect(
    left: Annotated[str, typer.Argument(metavar="A", help="A run's id, or a recording's file.")],
    right: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    tolerance_ms: Annotated[
        int, typer.Option(min=0, help="Milliseconds by which steps may differ in time.")
    ] = TOLERANCE_MS,
    target: TargetOption = "local",
    app_name: AppNameOption = DEFAULT_APP_NAME,
    as_json: JsonOption = False,
) -> None:
    """Name the first difference of two ended runs in each channel: status, output, end, files, timing.

    Exit code 0 when there is none, 1 when there is one, 2 when one of the two cannot be read.
    """
    from workbench.runs.bisection import NO_FILES
    from workbench.runs.bisection import bisect as bisected
    from workbench.runs.comparison import Comparison
    from workbench.runs.recordings import Recording

    with _unreadable_is_2(), failing():
        files = [Recording.load(name) if Path(name).is_file() else None for name in (left, right)]
        one, other = files
        if one is not None and other is not None:  # no target is needed
            found = bisected(Comparison(one.run, other.run, files_problem=NO_FILES), tolerance_ms=tolerance_ms)
        else:
            with _workbench(target, app_name) as workbench:
                found = workbench.bisect(one or left, other or right, tolerance_ms=tolerance_ms)
    if as_json:
        print_json(found.as_json())
    else:
        typer.echo("\n".join(found.lines()))
    if found.differs:
        raise typer.Exit(1)


@contextmanager
def _unreadable_is_2() -> Iterator[None]:
    """Exit code 1 says that two runs differ: a failure to read one must not say it, too."""
    try:
        yield
    except typer.Exit as ended:
        raise typer.Exit(2 if ended.exit_code == 1 else ended.exit_code) from None


def _show_departures(workbench: "Workbench", recording: "Recording", run_id: str) -> None:
    from workbench.runs.recordings import Recording
    from workbench.runs.replay import departures

    said = Recording.of(workbench.runs.get(run_id, wait_s=_ARCHIVED_S)).exchanges
    for departure in departures(recording, said):
        say(printable(departure))


def _checks(archive: "RunArchive", run_id: str, *, every: bool) -> Sequence[Check]:
    from workbench.runs.archive import RunNotArchivedError

    try:
        return archive.verify(run_id, wait_s=_JUST_ENDED_S)
    except RunNotArchivedError:
        if not every:
            raise
        return []  # the run was removed after it was listed, because it is no longer kept


def _facts(run: "ArchivedRun", checks: Iterable[Check]) -> dict[str, Any]:
    timeline = run.timeline
    return {
        **run.bundle.model_dump(mode="json", exclude_none=True),
        **({} if run.asked is None else {"request": run.asked.model_dump(mode="json", exclude_defaults=True)}),
        "timeline": {span.name: span.length_ms for span in timeline.spans},
        "steps": {step.name: step.length_ms for step in timeline.steps},
        "checks": [check.model_dump() for check in checks],
    }


def _labels(workbench: "Workbench", *, needed: bool = False) -> "RunLabels":
    """What runs are called; where that cannot be read it is told, and no failure unless it is `needed`."""
    from workbench.runs.labels import LabelsUnreadableError

    try:
        return workbench.labels.runs()
    except LabelsUnreadableError as error:
        if needed:
            raise
        say(printable(str(error)))
        return {}


def _called(name: str, labels: "RunLabels") -> set[str]:
    """The ids of the runs in whose name all words are."""
    words = name.casefold().split()
    return {run_id for run_id, label in labels.items() if all(word in label.name.casefold() for word in words)}


def _label_facts(labels: "RunLabels", run_id: str) -> dict[str, Any]:
    label = labels.get(run_id)
    return {} if label is None else {"label": label.model_dump()}


def _name_and_note(labels: "RunLabels", run_id: str) -> list[str]:
    """The name of a run, and its note in brackets, safe to print; without what was not given."""
    label = labels.get(run_id)
    if label is None:
        return []
    return [*filter(None, [one_line(label.name)]), *([f"({one_line(label.note)})"] if label.note else [])]


def _show_live(found: "Sequence[RunRecord]", labels: "RunLabels", *, as_json: bool) -> None:
    if as_json:
        shown = {"run_id", "user_id", "project_id", "action", "accepted_at_ms"}
        for one in found:
            print_json(one.model_dump(mode="json", include=shown) | _label_facts(labels, one.run_id))
        return
    for one in found:
        lasts = max(0, int(time.time() - one.accepted_at_ms / 1000))
        facts = [one.run_id, f"{one.action:<8} project {one.project_id}", f"{lasts} s"]
        typer.echo("  ".join([*facts, " ".join(_name_and_note(labels, one.run_id))]).rstrip())
    if not found:
        typer.echo("no run goes on")


def _show_list(found: "RunList", labels: "RunLabels") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not found:
        typer.echo("no such run is archived: a run is listed when it has ended")
        return
    heading, *rows = found.rows()
    called = [" ".join(_name_and_note(labels, one.run_id)) for one in found]
    if any(called):
        heading = (heading[0], "name (note)", *heading[1:])
        rows = [(row[0], one, *row[1:]) for row, one in zip(rows, called, strict=True)]
    table = Table(box=box.SIMPLE_HEAD)
    for name in heading:
        table.add_column(name, no_wrap=name in ("run", "took", "sandbox", "estimated"), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_colour(name, cell)) for name, cell in zip(heading, row, strict=True)))
    table_console(_WIDTH).print(table)
    if not found.complete:
        typer.echo("… and older ones: --limit shows more")


def _colour(column: str, cell: str) -> str:
    return "" if column != "outcome" else "green" if cell == "done" else "red"


def _show_run(run: "ArchivedRun", checks: Sequence[Check]) -> None:
    from workbench.runs.inputs import described

    typer.echo(f"run {run.run_id}")
    for name, value in run.facts():
        typer.echo(f"  {name:<10} {value}")
    if run.asked is not None:
        typer.echo("\ninput")
        typer.echo(textwrap.indent(described(run.asked), "  "))
    typer.echo()
    typer.echo("\n".join(run.timeline.lines()))
    typer.echo()
    _show_checks(run.run_id, checks, as_json=False, short=False)


def _show_checks(run_id: str, checks: Sequence[Check], *, as_json: bool, short: bool) -> None:
    """Print every check of a run; with `short`, a single line if all of them hold."""
    ok = all(check.ok for check in checks)
    if as_json:
        print_json({"run_id": run_id, "ok": ok, "checks": [check.model_dump() for check in checks]})
        return
    if short:
        typer.echo(f"{typer.style('✓', fg='green') if ok else typer.style('✗', fg='red')} {run_id}")
    for check in checks:
        if not (short and check.ok):
            mark = typer.style("✓", fg="green") if check.ok else typer.style("✗", fg="red")
            typer.echo(f"  {mark} {check.name:<14} {one_line(check.detail, 400)}")

"""`workbench soak`: long tests that keep a machine busy and count whether promises are kept."""

import random
import shlex
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from workbench.cli.common import JsonOption, failing, prepare, print_json, say
from workbench.local_cloud import daemon
from workbench.machine.private_cloud import private_directory
from workbench.soak.progress import PHASES, Phase, Progress, ProgressUnreadableError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.progress import Progress as Bars

    from workbench.local_cloud import State
    from workbench.soak.sandbox_soak import Report

app = typer.Typer(
    no_args_is_help=True, help="Long tests that keep this machine busy and count whether promises are kept."
)
_DEFAULTS: dict[Phase, int] = {"cycles": 1000, "concurrent": 50, "kills": 200}
_SEEDS = 2**32
_LINE_EVERY_S = 60.0
_DONE = {"cycles": "sandboxes created and ended", "concurrent": "sandboxes heard at once", "kills": "clouds killed"}


@app.command()
def sandboxes(
    cycles: Annotated[
        int | None, typer.Option(min=0, help="How many sandboxes to create and end; 1000 if not given.")
    ] = None,
    kills: Annotated[
        int | None, typer.Option(min=0, help="How often to kill and restart a local cloud; 200 if not given.")
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=0, help="How many sandboxes print at the same time; 50 if not given.")
    ] = None,
    talk_s: Annotated[float, typer.Option(min=0.1, help="For how many seconds they print.")] = 5.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Repeats the choices of an earlier soak.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue from the progress in this file, and store it there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Test that no process, mount, socket, namespace, control group or directory of a sandbox is ever left behind.

    Sandboxes are created and ended at random moments; many print at the same time; local clouds are killed at random
    moments and started again. After each step the machine is searched for leftovers. Exit code 1, and a list of what
    was left, when a promise is not kept. An interrupted soak prints the command that continues it.
    """
    given: dict[Phase, int | None] = {"cycles": cycles, "concurrent": concurrent, "kills": kills}
    progress = _progress(given, seed, resume)
    path = resume or Path(tempfile.gettempdir()) / f"workbench-soak-{progress.seed}.json"
    say(f"seed {progress.seed}")
    with failing():
        prepare()
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the result
        progress.save(path)
        try:
            report = _run(progress, path, talk_s)
        except KeyboardInterrupt:
            say(f"to go on: workbench soak sandboxes --resume {shlex.quote(str(path))}")
            raise
    if not report.failure:
        path.unlink()
    if as_json:
        print_json(report.facts())
    else:
        _tell(report, path)
    if report.failure:
        raise typer.Exit(1)


@app.command()
def volumes(
    kills: Annotated[int, typer.Option(min=0, help="How often to kill a local cloud while files are written.")] = 200,
    size_mb: Annotated[int, typer.Option(min=0, help="Size of one large file, in MiB.")] = 1024,
    files: Annotated[int, typer.Option(min=0, help="How many small files to write and read back.")] = 50_000,
    seed: Annotated[int | None, typer.Option(min=0, help="Repeats the choices of an earlier soak.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Test that after a kill at any moment all acknowledged files are there, complete, and no file is there in part.

    After each kill the state is checked as by `workbench cloud fsck`. Then a large file and many small ones are written
    and read back. Exit code 1 when a promise is not kept.
    """
    from workbench.soak import volume_soak as soak

    figures, chosen = soak.Figures(), _chosen(seed)

    def work(state: "State", bars: "Bars") -> None:
        for _ in bars.track(soak.kills(state, chosen, range(kills), figures), kills, description="kills"):
            pass
        task = bars.add_task("large and many", total=size_mb * 1024 * 1024 + files)
        soak.large(state, size_mb=size_mb, files=files, advance=lambda _, n: bars.advance(task, n), figures=figures)

    _soak(figures, work, as_json=as_json, seed=chosen)


@app.command()
def runs(
    count: Annotated[
        int, typer.Option(min=0, help="How many runs, each with a random fault and random readers.")
    ] = 2000,
    at_once: Annotated[int, typer.Option(min=1, max=40, help="How many runs at the same time.")] = 8,
    first: Annotated[int, typer.Option(min=0, help="The number of the first case, to repeat a part of a soak.")] = 0,
    outage_every: Annotated[
        int, typer.Option(min=0, help="Instead of faults in single runs, an outage of the platform every so many runs.")
    ] = 0,
    outage_s: Annotated[
        float, typer.Option(min=0.1, help="For how many seconds of an outage every call to the platform fails.")
    ] = 40,
    seed: Annotated[int | None, typer.Option(min=0, help="Repeats the choices of an earlier soak.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Test that every run has one end, one execution, and the same bytes for every reader, whatever dies first.

    Clients, containers, sandboxes and the whole cloud are killed at random moments, containers and the cloud get no
    processor for seconds, calls and streams fail, commits are lost; readers leave and come back. A run during which
    nothing was made to fail must end with `done`. At the end no sandbox may be left, and every run's proof must hold.
    Exit code 1 when a promise is not kept.
    """
    import asyncio

    from workbench.soak import run_soak as soak

    figures, chosen = soak.Figures(), _chosen(seed)

    def work(state: "State", bars: "Bars") -> None:
        cases = soak.Soak(state, chosen, figures, outage_every=outage_every, outage_s=outage_s)
        task = bars.add_task("runs", total=count)

        async def go() -> None:
            await cases.go(range(first, first + count), at_once=at_once, advance=lambda: bars.advance(task))
            await cases.finish()

        cases.deploy()
        asyncio.run(go())

    _soak(figures, work, as_json=as_json, seed=chosen)


@app.command()
def streams(
    count: Annotated[int, typer.Option(min=1, help="How many runs at the same time.")] = 500,
    rate: Annotated[float, typer.Option(min=0.1, help="How many of them start per second.")] = 1.0,
    every_s: Annotated[float, typer.Option(min=0.01, help="Seconds between two lines of one run.")] = 10.0,
    heartbeat_s: Annotated[
        float, typer.Option(min=0.1, max=15, help="After how many seconds of silence the endpoint sends a heartbeat.")
    ] = 1.5,
    storm: Annotated[int, typer.Option(min=0, help="How many of them start at the same moment, as the last ones.")] = 0,
    hold_s: Annotated[
        float, typer.Option(min=0, help="For how many seconds all of them go on at the same time.")
    ] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Test that with many runs at once no stream is silent, and no line is late, by more than 2 seconds.

    Runs start at a steady rate, print a line at a steady pace, and end in the order in which they started; in between,
    heartbeats keep their streams alive. With --storm the last runs start at the same moment, while the others go on.
    With heartbeats less often than every 2 seconds, a stream may be silent for up to 2 seconds longer than the
    heartbeat's interval. Exit code 1 when a stream was silent for longer, a line was late, one line in a hundred took
    more than a second, a run did not end well, or not all runs went on at the same time. Every event and every
    heartbeat costs processor time of the endpoint and of the cloud (the report tells how much), so nothing else should
    use this machine.
    """
    import asyncio

    from workbench.soak import stream_soak as soak

    figures = soak.Figures()

    def work(state: "State", bars: "Bars") -> None:
        tasks = {step: bars.add_task(step, total=count) for step in soak.STEPS}
        many = soak.Streams(state, figures)
        starting_s = soak.starting_in_s(count, rate=rate, storm=min(storm, count))
        many.deploy(heartbeat_s=heartbeat_s, lasting_s=starting_s + hold_s + count / rate)

        def advance(step: soak.Step) -> None:
            bars.advance(tasks[step])

        asyncio.run(many.go(count, rate=rate, every_s=every_s, hold_s=hold_s, storm=min(storm, count), advance=advance))

    _soak(figures, work, as_json=as_json)


@app.command()
def readers(
    mb: Annotated[int, typer.Option(min=10, help="How much the run prints, in MiB.")] = 1024,
    stalled: Annotated[int, typer.Option(min=1, max=500, help="How many readers take no bytes.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Test that readers that take nothing cost a bounded amount of memory and do not hold up other readers.

    Meanwhile one reader reads all of the run's output. Exit code 1 when the endpoint's memory grows with the output,
    or when some of the output does not reach that reader.
    """
    from workbench.soak import stalled as soak

    figures = soak.Figures()

    def work(state: "State", bars: "Bars") -> None:
        task = bars.add_task("MiB", total=mb)
        soak.run(state, mb=mb, stalled=stalled, advance=lambda n: bars.advance(task, n), figures=figures)

    _soak(figures, work, as_json=as_json)


def _soak(
    figures: "DataclassInstance", work: "Callable[[State, Bars], None]", *, as_json: bool, seed: int | None = None
) -> None:
    """Run a soak on a private local cloud, print its figures, and exit with 1 when a promise was not kept.

    `seed` is printed first if it is given: a soak that makes random choices passes it, so that it can be repeated.
    """
    from workbench.local_cloud import State
    from workbench.soak.soak_failures import SoakFailedError

    if seed is not None:
        say(f"seed {seed}")
    failure = ""
    left: tuple[str, ...] = ()
    with failing():
        prepare()
        with private_directory("soak") as root, _bars() as bars:
            state = State(root / "state")
            try:
                work(state, bars)
            except SoakFailedError as error:
                failure, left = str(error), error.left
            finally:
                daemon.stop(state)
    if as_json:
        chosen = {} if seed is None else {"seed": seed}
        print_json({"ok": not failure, **chosen, **asdict(figures), "failure": failure, "left": list(left)})
    else:
        for name, value in asdict(figures).items():
            typer.echo(f"{name}: {value}")
        for line in (failure, *left):
            typer.echo(line, err=True) if line else None
    if failure:
        raise typer.Exit(1)


def _chosen(seed: int | None) -> int:
    return random.randrange(_SEEDS) if seed is None else seed  # noqa: S311  # not used as a secret


def _progress(given: dict[Phase, int | None], seed: int | None, resume: Path | None) -> Progress:
    if resume is not None and resume.exists():
        try:
            progress = Progress.load(resume)
        except ProgressUnreadableError as error:
            raise typer.BadParameter(str(error)) from error
        changed = [phase for phase in PHASES if given[phase] not in (None, progress.asked[phase])]
        if changed or seed not in (None, progress.seed):
            raise typer.BadParameter(
                f"{resume} holds the progress of another soak: leave seed and counts out, or name another file"
            )
        return progress
    asked = {phase: _DEFAULTS[phase] if (count := given[phase]) is None else count for phase in PHASES}
    return Progress.new(_chosen(seed), asked)


def _run(progress: Progress, path: Path, talk_s: float) -> "Report":
    from workbench.soak.sandbox_soak import run

    with _bars() as bars:
        tasks = {
            phase: bars.add_task(phase, total=progress.asked[phase], completed=progress.done[phase], start=False)
            for phase in PHASES
            if progress.asked[phase]
        }

        def advance(phase: Phase) -> None:
            progress.save(path)
            bars.start_task(tasks[phase])
            bars.update(tasks[phase], completed=progress.done[phase])

        return run(progress, talk_s=talk_s, advance=advance)


@contextmanager
def _bars() -> "Iterator[Bars]":
    """Progress bars on a terminal; elsewhere, a line of progress from time to time."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
    over = threading.Event()

    def tell() -> None:
        while not over.wait(_LINE_EVERY_S):
            say(", ".join(f"{task.description}: {task.completed:g} of {task.total or 0:g}" for task in bars.tasks))

    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        telling = threading.Thread(target=tell, daemon=True)
        if not bars.console.is_terminal:
            telling.start()
        try:
            yield bars
        finally:
            over.set()


def _tell(report: "Report", path: Path) -> None:
    progress = report.progress
    for phase in (phase for phase in PHASES if progress.asked[phase]):
        typer.echo(f"{progress.done[phase]:>6} {_DONE[phase]} in {progress.seconds[phase]:,.1f} s")
        for name, value in report.figures.get(phase, {}).items():
            typer.echo(f"{'':>7}{name}: {value}")
    if not report.failure:
        typer.echo("nothing was left")
        return
    typer.echo(f"error: {report.failure}", err=True)
    for thing in report.left:
        typer.echo(f"  left: {thing}", err=True)
    say(f"to try that again: workbench soak sandboxes --resume {shlex.quote(str(path))}")

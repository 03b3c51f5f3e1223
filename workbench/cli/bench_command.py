"""`workbench bench`: measures speed, each figure beside a baseline that was measured in the same run."""

import os
import platform
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import JsonOption, failing, prepare, print_json, say, table_console
from workbench.local_cloud import State, daemon
from workbench.machine.private_cloud import private_directory

if TYPE_CHECKING:
    from workbench.benchmarks.figures import Figure

_WIDTH = 140  # characters of a table that is not printed to a terminal
GROUPS = ("sandboxes", "volumes", "streams", "deltas", "bridge", "demo", "output", "files", "images", "run")


def bench(
    only: Annotated[
        list[str] | None, typer.Option(help=f"Measure only this group: {', '.join(GROUPS)}. May be repeated.")
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=1, max=1000, help="How many samples of slow operations; fast ones get more.")
    ] = 20,
    as_json: JsonOption = False,
) -> None:
    """Measure what the local cloud and the endpoint add to a bare process, a pipe and a bare HTTP stream.

    Every figure is shown beside baselines that were measured in the same run, alternating with it: compare the ratios.
    The measurement starts a local cloud of its own, with an empty state. It takes about ten minutes.
    """
    wanted = only or list(GROUPS)
    if unknown := [name for name in wanted if name not in GROUPS]:
        raise typer.BadParameter(f"there is no group '{unknown[0]}'; there are {', '.join(GROUPS)}")
    with failing():
        prepare()
        figures = []
        for figure in _measure(wanted, repeat):
            say(f"  {figure.name}: {figure.ours.median:,.4g} {figure.unit}")
            figures.append(figure)
    if as_json:
        machine = {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}
        print_json({"machine": machine, "figures": [figure.facts() for figure in figures]})
    else:
        _table(figures)


def _measure(wanted: list[str], repeat: int) -> "Iterator[Figure]":
    with private_directory("bench") as directory:
        state = State(directory / "state")
        say("starting a separate local cloud …")
        daemon.start(state)
        try:
            from workbench.benchmarks import (
                bridge_benchmark,
                delta_benchmark,
                demo_benchmark,
                files_benchmark,
                image_benchmark,
                output_benchmark,
                run_benchmark,
                sandbox_benchmark,
                stream_benchmark,
                volume_benchmark,
            )
            from workbench.session import connect

            with connect("local", state_dir=state.root) as workbench:
                measures: dict[str, Callable[[], Iterator[Figure]]] = {
                    "sandboxes": lambda: sandbox_benchmark.measure(repeat),
                    "run": lambda: run_benchmark.measure(workbench, repeat),
                    "volumes": lambda: volume_benchmark.measure(repeat),
                    "files": lambda: files_benchmark.measure(repeat),
                    "streams": lambda: stream_benchmark.measure(workbench, repeat),
                    "deltas": lambda: delta_benchmark.measure(workbench, repeat),
                    "bridge": lambda: bridge_benchmark.measure(workbench, repeat),
                    "demo": lambda: iter([demo_benchmark.measure(max(1, repeat // 6))]),
                    "images": lambda: image_benchmark.measure(repeat),
                    "output": lambda: output_benchmark.measure(repeat),
                }
                workbench.target.point_sdk()
                if {"run", "streams", "bridge"} & set(wanted):
                    say("deploying modal_app …")
                    workbench.deploy()
                for name in wanted:
                    if name == "deltas" and (why := workbench.why_without_claude) is not None:
                        say(f"deltas are not measured: {why}")
                        continue
                    say(f"measuring {name} …")
                    yield from measures[name]()
        finally:
            daemon.stop(state)


def _table(figures: "list[Figure]") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("figure", "unit"):
        table.add_column(title, no_wrap=True)
    for title in ("median", "p95", "p99", "n"):
        table.add_column(title, justify="right")
    table.add_column("baseline", no_wrap=True)
    table.add_column("its median", justify="right")
    table.add_column("ratio", justify="right")
    for figure in figures:
        ours = figure.ours
        own = [figure.name, figure.unit, _number(ours.median), _number(ours.quantile(0.95))]
        own += [_number(ours.quantile(0.99)), str(len(ours.values))]
        for baseline in figure.baselines:
            table.add_row(*own, baseline.name, _number(baseline.median), f"x{figure.ratio(baseline):,.3g}")
            own = [""] * len(own)
    console = table_console(_WIDTH)
    console.print(table)
    console.print("Less is better for times, more for rates; each baseline was measured alternating with its figure.")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

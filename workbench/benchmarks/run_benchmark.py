"""Measures a run whose job is empty, and the start of a sandbox, beside what isolates a program without a cloud."""

import shutil
import time
from collections.abc import Iterator

import modal

from workbench.benchmarks import bare_processes
from workbench.benchmarks.figures import Figure, Samples
from workbench.benchmarks.sandbox_benchmark import SAYS_READY, new_sandbox
from workbench.runs.project import Project
from workbench.session import Workbench

_APP = "workbench-bench-run"
_EMPTY = "pass"
_SRT = "srt"  # Anthropic's sandbox-runtime, where it is installed


def measure(workbench: Workbench, repeat: int) -> Iterator[Figure]:
    """Yield figures of a sandbox's start and of an empty run, `repeat` samples each. The endpoint must be deployed."""
    yield _start(repeat)
    yield _empty_run(workbench, repeat)


def _start(repeat: int) -> Figure:
    app = modal.App.lookup(_APP, create_if_missing=True)
    bare = {"bubblewrap": bare_processes.bubblewrapped(SAYS_READY), "subprocess": SAYS_READY}
    if shutil.which(_SRT):
        bare[_SRT] = (_SRT, "echo", "ready")
    ours: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in bare}
    for round_ in range(repeat + 1):
        taken = {name: bare_processes.to_first_output(argv) for name, argv in bare.items()}
        started = time.perf_counter()
        sandbox = new_sandbox(app, *SAYS_READY)
        try:
            next(iter(sandbox.stdout))
            ours_ms = (time.perf_counter() - started) * 1000
        finally:
            sandbox.terminate(wait=True)
        if round_:  # the first one builds the image and opens connections
            ours.append(ours_ms)
            for name, value in taken.items():
                others[name].append(value)
    return _figure("create → first output", ours, others)


def _empty_run(workbench: Workbench, repeat: int) -> Figure:
    project = Project.new()
    python = bare_processes.python(_EMPTY)
    bare = {"bubblewrap": bare_processes.bubblewrapped(python), "subprocess": python}
    ours: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in bare}
    for round_ in range(repeat + 1):
        taken = {name: bare_processes.to_end(argv) for name, argv in bare.items()}
        started = time.perf_counter()
        end = workbench.launch(project, "python", code=_EMPTY).wait(bare_processes.TIMEOUT_S)
        ours_ms = (time.perf_counter() - started) * 1000
        if end.type != "done":
            raise RuntimeError(f"the empty run ended with {end.code}: {end.message}")
        if round_:  # the first one waits for a container
            ours.append(ours_ms)
            for name, value in taken.items():
                others[name].append(value)
    return _figure("empty run, launch → done", ours, others)


def _figure(name: str, ours: list[float], others: dict[str, list[float]]) -> Figure:
    baselines = tuple(Samples(other, tuple(values)) for other, values in others.items())
    return Figure(name, "ms", "less", Samples("local cloud", tuple(ours)), baselines)

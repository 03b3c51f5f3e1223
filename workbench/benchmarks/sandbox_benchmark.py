"""Measures what a sandbox costs, used through the stock SDK, beside the same program as a bare child process."""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import modal
import psutil

from workbench.benchmarks import bare_processes
from workbench.benchmarks.figures import Figure, Samples

_APP = "workbench-bench"
_IDLE = 10  # sandboxes at the same time when memory is measured
_BLOCK = "import os\nblock = b'x' * 65535 + b'\\n'\nfor _ in range({count}): os.write(1, block)"
_BOMB = """
import os
full = False
while True:
    try:
        os.fork()
    except OSError:
        full = full or print("full") or True
"""
SAYS_READY = ("sh", "-c", "echo ready; cat")


def new_sandbox(app: modal.App, *argv: str) -> modal.Sandbox:
    """A sandbox without a network, which its caller ends."""
    return modal.Sandbox.create(*argv, app=app, image=modal.Image.debian_slim(), timeout=600, block_network=True)


def measure(repeat: int) -> Iterator[Figure]:
    """Yield figures of creation, execution and output. Creation is measured `repeat` times."""
    app = modal.App.lookup(_APP, create_if_missing=True)
    yield _creation(app, repeat)
    yield _memory(app)
    yield _termination(app, max(3, repeat // 2))
    sandbox = new_sandbox(app)
    try:
        yield from _execution(sandbox, repeat * 5)
        yield _output(sandbox, max(3, repeat // 4))
    finally:
        sandbox.terminate(wait=True)


def _creation(app: modal.App, repeat: int) -> Figure:
    ours, bare = [], []
    for round_ in range(repeat + 1):
        started = time.perf_counter()
        sandbox = new_sandbox(app, *SAYS_READY)
        try:
            next(iter(sandbox.stdout))
            taken = (time.perf_counter() - started) * 1000
        finally:
            sandbox.terminate(wait=True)
        if round_:  # the first one builds the image and opens connections
            ours.append(taken)
            bare.append(bare_processes.to_first_output(SAYS_READY))
    return Figure("sandbox create → first output", "ms", "less", _samples(ours), (Samples("subprocess", tuple(bare)),))


def _memory(app: modal.App) -> Figure:
    """Measure the memory of idle sandboxes: of bubblewrap and the agent, as the kernel counts it (PSS)."""
    before = set(_bubblewraps())
    sandboxes = [new_sandbox(app) for _ in range(_IDLE)]
    try:
        ours = []
        for process in set(_bubblewraps()) - before:
            with suppress(psutil.NoSuchProcess):  # a process of another cloud that has just ended
                if (parent := process.parent()) is not None and parent.name() != "bwrap":
                    family = [process, *process.children(recursive=True)]
                    ours.append(sum(one.memory_full_info().pss for one in family) / 1e6)
        with bare_processes.running([sys.executable, "-I", "-S", "-c", "input()"]) as bare:
            time.sleep(0.2)  # until it has started
            baseline = psutil.Process(bare.pid).memory_full_info().pss / 1e6
    finally:
        for sandbox in sandboxes:
            sandbox.terminate(wait=True)
    return Figure("memory of an idle sandbox", "MB", "less", _samples(ours), (Samples("python3 -IS", (baseline,)),))


def _termination(app: modal.App, repeat: int) -> Figure:
    """Measure how long it takes to end a sandbox with a fork bomb in it, until its end is confirmed."""
    ours, bare = [], []
    for _ in range(repeat):
        sandbox = new_sandbox(app)
        bomb = sandbox.exec("python3", "-S", "-u", "-c", _BOMB)
        next(iter(bomb.stdout))  # the limit on processes is reached
        ours.append(bare_processes.milliseconds(lambda sandbox=sandbox: sandbox.terminate(wait=True)))  # type: ignore[misc]  # bound now
        with bare_processes.running(["sleep", "600"]) as process:
            bare.append(bare_processes.milliseconds(lambda process=process: (process.kill(), process.wait())))  # type: ignore[misc]  # bound now
    return Figure(
        "terminate in a fork bomb", "ms", "less", _samples(ours), (Samples("kill a subprocess", tuple(bare)),)
    )


def _bubblewraps() -> list[psutil.Process]:
    """The bubblewrap processes of sandboxes. Those of function containers are left out: they have no agent."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "bwrap" and any(word.endswith("/agent.py") for word in process.info["cmdline"] or ())
    ]


def _execution(sandbox: modal.Sandbox, repeat: int) -> Iterator[Figure]:
    ends: tuple[list[float], list[float]] = ([], [])
    lines: tuple[list[float], list[float]] = ([], [])
    sandbox.exec("true").wait()
    for _ in range(repeat):
        ends[0].append(bare_processes.milliseconds(lambda: sandbox.exec("true").wait()))
        ends[1].append(bare_processes.to_end(["true"]))
        lines[0].append(bare_processes.milliseconds(lambda: next(iter(sandbox.exec("echo", "ready").stdout))))
        lines[1].append(bare_processes.to_first_output(["echo", "ready"]))
    yield Figure("warm exec → exit code", "ms", "less", _samples(ends[0]), (Samples("subprocess", tuple(ends[1])),))
    yield Figure("warm exec → first line", "ms", "less", _samples(lines[0]), (Samples("subprocess", tuple(lines[1])),))


def _output(sandbox: modal.Sandbox, repeat: int) -> Figure:
    ours, bare = [], []
    code = _BLOCK.format(count=2048)
    for _ in range(repeat):
        started = time.perf_counter()
        process = sandbox.exec("python3", "-S", "-u", "-c", code, text=False)
        size = sum(len(chunk) for chunk in process.stdout)
        ours.append(size / 1e6 / (time.perf_counter() - started))
        started = time.perf_counter()
        size = sum(len(data) for _, data in bare_processes.chunks(bare_processes.python(code)))
        bare.append(size / 1e6 / (time.perf_counter() - started))
    return Figure("stdout of one exec", "MB/s", "more", _samples(ours), (Samples("pipe", tuple(bare)),))


def _samples(values: list[float]) -> Samples:
    return Samples("local cloud", tuple(values))

"""Measures sandboxes of an image with a layer of its own beside those of a plain one, and builds of layers."""

import secrets
import time
from collections.abc import Callable, Iterator

import modal
import psutil

from workbench.benchmarks import bare_processes
from workbench.benchmarks.figures import Figure, Samples

_APP = "workbench-bench"
_STEPS = 20
_IDLE = 5
_SAYS_READY = ("sh", "-c", "echo ready; cat")


def measure(repeat: int) -> Iterator[Figure]:
    """Yield figures of sandboxes and of builds. No step needs a network."""
    app = modal.App.lookup(_APP, create_if_missing=True)
    plain = modal.Image.debian_slim()
    own = plain.run_commands("echo built | tee /etc/built")
    for image in (plain, own):  # built before anything is measured
        _first_output(app, image)
    yield _beside(
        "image with a step: sandbox create → first output",
        repeat,
        lambda: _first_output(app, own),
        "debian_slim",
        lambda: _first_output(app, plain),
    )
    yield _memory(app, own, plain)
    yield from _builds(app, max(3, repeat // 4))


def _first_output(app: modal.App, image: modal.Image) -> float:
    """Return the milliseconds from the creation of a sandbox to the first output of its program."""
    started = time.perf_counter()
    sandbox = modal.Sandbox.create(*_SAYS_READY, app=app, image=image, timeout=600, block_network=True)
    try:
        next(iter(sandbox.stdout))
        return (time.perf_counter() - started) * 1000
    finally:
        sandbox.terminate(wait=True)


def _memory(app: modal.App, own: modal.Image, plain: modal.Image) -> Figure:
    """Measure the memory of idle sandboxes, as the kernel counts it (PSS), each kind with the other one absent."""
    return Figure(
        "image with a step: memory of an idle sandbox",
        "MB",
        "less",
        Samples("with a step", (_idle_megabytes(app, own),)),
        (Samples("debian_slim", (_idle_megabytes(app, plain),)),),
    )


def _idle_megabytes(app: modal.App, image: modal.Image) -> float:
    before = {process.pid for process in _bubblewraps()}
    sandboxes = [modal.Sandbox.create(app=app, image=image, timeout=600, block_network=True) for _ in range(_IDLE)]
    try:
        time.sleep(0.5)  # until the last one is idle
        new = [process for process in _bubblewraps() if process.pid not in before]
        pids = {process.pid for process in new}
        tops = [process for process in new if process.info["ppid"] not in pids]
        families = {one for top in tops for one in (top, *top.children(recursive=True))}
        return sum(one.memory_full_info().pss for one in families) / 1e6 / _IDLE
    finally:
        for sandbox in sandboxes:
            sandbox.terminate(wait=True)


def _bubblewraps() -> list[psutil.Process]:
    """Every bubblewrap of this machine; one that starts a root file system was a launcher that had waited for it."""
    return [process for process in psutil.process_iter(["name", "ppid"]) if process.info["name"] == "bwrap"]


def _builds(app: modal.App, repeat: int) -> Iterator[Figure]:
    """Measure builds of twenty shell steps: nothing changed, the last one changed; beside the bare step."""
    again, last, bare, step = [], [], [], []
    mark = secrets.token_hex(4)

    def image(word: str) -> modal.Image:
        commands = [f"RUN echo {mark} {number} | tee /srv/{number}" for number in range(_STEPS - 1)]
        return modal.Image.debian_slim().dockerfile_commands(*commands, f"RUN echo {word} | tee /srv/last")

    image("first").build(app)
    for _ in range(repeat):
        again.append(bare_processes.milliseconds(lambda: image("first").build(app)))
        word = secrets.token_hex(4)
        last.append(bare_processes.milliseconds(lambda word=word: image(word).build(app)))  # type: ignore[misc]  # bound now
        bare.append(bare_processes.milliseconds(lambda: modal.Image.debian_slim().build(app)))
        step.append(bare_processes.to_end(["sh", "-c", "echo word | tee /dev/null"]))
    yield Figure(
        "images: build with nothing changed",
        "ms",
        "less",
        Samples("20 steps", tuple(again)),
        (Samples("debian_slim", tuple(bare)),),
    )
    yield Figure(
        "images: build with its last step changed",
        "ms",
        "less",
        Samples("1 of 20 steps", tuple(last)),
        (Samples("nothing changed", tuple(again)), Samples("the bare step", tuple(step))),
    )


def _beside(
    name: str, repeat: int, ours: Callable[[], float], baseline_name: str, baseline: Callable[[], float]
) -> Figure:
    taken = [(ours(), baseline()) for _ in range(repeat)]
    return Figure(
        name,
        "ms",
        "less",
        Samples("with a step", tuple(one for one, _ in taken)),
        (Samples(baseline_name, tuple(other for _, other in taken)),),
    )

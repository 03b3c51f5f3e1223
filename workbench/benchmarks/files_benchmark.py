"""Measures a project with its dependencies installed: mounting it, a whole run on it, and committing all of it.

Beside the same for an empty project, mounts that copy every file, `cp -a`, and `git add && git commit`.
"""

import asyncio
import contextlib
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import modal

from workbench.benchmarks import bare_processes
from workbench.benchmarks.figures import Figure, Samples
from workbench.local_cloud import (
    CommittedVolumes,
    ContentStore,
    Database,
    WorkingCopies,
    take_private_mounts,
    why_without_overlay,
)

FILES = 30_000
_IN_A_DIRECTORY = 100
_APP = "workbench-bench"
_FULL, _EMPTY = "vo-full", "vo-empty"
_GIT = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0")
_FILL = """
import os, random
chance = random.Random(1)
for number in range({files}):
    name = f"/v/package{{number // {each} % 30}}/module{{number // {each}}}"
    if number % {each} == 0:
        os.makedirs(name)
    with open(f"{{name}}/file{{number}}.js", "wb") as file:
        file.write(chance.randbytes(chance.randint(200, 1600)))
"""
_CHANGE = ("sh", "-c", "date +%N > /v/one")


def measure(repeat: int) -> Iterator[Figure]:
    """Yield figures for a project of FILES small files; slow ones are measured a few times only."""
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as directory:
        yield from asyncio.run(_Mounts(Path(directory)).run(max(2, repeat // 6)))
    yield from _runs(max(3, repeat // 2))


class _Mounts:
    """Mounts and commits in this process: without a sandbox, and without a cloud."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._database = Database(root / "volumes.sqlite")
        self._content = ContentStore(root / "content")
        self._committed = CommittedVolumes(self._database)
        self._committed.create(_EMPTY, version=2)
        self._taken: dict[str, list[float]] = {}

    async def run(self, repeat: int) -> list[Figure]:
        """Measure everything in turns."""
        overlay = not (why_without_overlay(self._root) or take_private_mounts(self._root))
        with contextlib.ExitStack() as stack:
            stack.callback(self._database.close)
            stack.callback(self._content.close)
            copies = WorkingCopies(self._root / "mounts", self._committed, self._content, overlay=overlay)
            stack.callback(copies.close)
            copied = WorkingCopies(self._root / "copied", self._committed, self._content)
            stack.callback(copied.close)
            tree = self._root / "tree"
            _fill(tree)
            for round_ in range(repeat):
                await self._commit(copies, tree, f"{_FULL}-{round_}")
            for round_ in range(repeat):
                for _ in range(10 if overlay else 1):
                    await self._mount(copies, f"{_FULL}-0", "mount")
                    await self._mount(copies, _EMPTY, "mount an empty project")
                await self._mount(copied, f"{_FULL}-0", "mount by copies")
                self._add("cp -a", bare_processes.to_end(["cp", "-a", str(tree), str(self._root / f"copy-{round_}")]))
                shutil.rmtree(self._root / f"copy-{round_}")
        size = f"{FILES:,} files"
        return [
            self._figure(f"mount {size}", "mount", "mount an empty project", "mount by copies", "cp -a"),
            self._figure(f"commit {size}, all new", "commit", "git add, commit", "cp -a"),
        ]

    async def _commit(self, copies: WorkingCopies, tree: Path, volume_id: str) -> None:
        """Commit the tree, each time with other contents, to an empty volume and to a new repository."""
        self._committed.create(volume_id, version=2)
        _alter(tree, volume_id)
        copy = await copies.mount(volume_id)
        _copy(tree, copy.path)
        self._add("commit", await _timed(lambda: copy.commit("bench:")))
        await copy.release()
        _copy(tree, self._root / "git")
        self._add("git add, commit", self._git())

    def _git(self) -> float:
        """Return how long a first commit takes, without the time to make the repository, which is removed."""

        def run(*arguments: str) -> None:
            subprocess.run([*_GIT, *arguments], cwd=self._root / "git", check=True, timeout=bare_processes.TIMEOUT_S)

        run("init", "-q")
        taken = bare_processes.milliseconds(lambda: run("add", "-A"))
        taken += bare_processes.milliseconds(lambda: run("commit", "-q", "-m", "all"))
        shutil.rmtree(self._root / "git")
        return taken

    async def _mount(self, copies: WorkingCopies, volume_id: str, name: str) -> None:
        started = time.perf_counter()
        copy = await copies.mount(volume_id)
        self._add(name, (time.perf_counter() - started) * 1000)
        await copy.discard()

    def _add(self, name: str, milliseconds: float) -> None:
        self._taken.setdefault(name, []).append(milliseconds)

    def _figure(self, name: str, ours: str, *baselines: str) -> Figure:
        samples = [Samples(one, tuple(self._taken[one])) for one in (ours, *baselines)]
        return Figure(name, "ms", "less", samples[0], tuple(samples[1:]))


def _runs(repeat: int) -> Iterator[Figure]:
    """Yield the figures of whole runs that change one file, in sandboxes of the cloud that the SDK uses."""
    app = modal.App.lookup(_APP, create_if_missing=True)
    with modal.Volume.ephemeral(version=2) as full, modal.Volume.ephemeral(version=2) as empty:
        _run(app, full, "python3", "-c", _FILL.format(files=FILES, each=_IN_A_DIRECTORY))
        _run(app, empty, *_CHANGE)
        taken: dict[str, list[float]] = {"full": [], "empty": []}
        for _ in range(repeat):
            taken["full"].append(_run(app, full, *_CHANGE))
            taken["empty"].append(_run(app, empty, *_CHANGE))
    yield Figure(
        f"one-file run, {FILES:,} files",
        "ms",
        "less",
        Samples("run", tuple(taken["full"])),
        (Samples("in an empty project", tuple(taken["empty"])),),
    )


def _run(app: modal.App, volume: modal.Volume, *argv: str) -> float:
    """Return the milliseconds from the request for a sandbox to the end of it, with its last commit."""
    started = time.perf_counter()
    sandbox = modal.Sandbox.create(*argv, app=app, volumes={"/v": volume}, timeout=600, block_network=True)
    try:
        sandbox.wait(raise_on_termination=False)
    finally:
        sandbox.terminate(wait=True)
    return (time.perf_counter() - started) * 1000


def _fill(tree: Path) -> None:
    chance = random.Random(1)  # noqa: S311  # to be repeated, not to be secret
    for number in range(FILES):
        directory = number // _IN_A_DIRECTORY
        path = tree / f"package{directory % 30}" / f"module{directory}" / f"file{number}.js"
        if number % _IN_A_DIRECTORY == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(chance.randbytes(chance.randint(200, 1600)))


def _alter(tree: Path, word: str) -> None:
    for path in tree.rglob("*.js"):
        with path.open("a") as file:
            file.write(f"// {word}\n")


def _copy(tree: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", f"{tree}/.", str(target)], check=True, timeout=bare_processes.TIMEOUT_S)


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return (time.perf_counter() - started) * 1000

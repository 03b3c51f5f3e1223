"""Measures mounting, committing and reloading a project, beside `cp -a`, `rsync` and `git commit` of the same tree."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from workbench.benchmarks import bare_processes
from workbench.benchmarks.figures import Figure, Samples
from workbench.local_cloud import CommittedVolumes, ContentStore, Database, WorkingCopies, WorkingCopy

FILES = 1000
CHANGES = 10
_VOLUME = "vo-bench"
_FILE_BYTES = 4000  # the size of a typical source file
_GIT = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0")


def measure(repeat: int) -> Iterator[Figure]:
    """Yield figures for a project of FILES files, of which CHANGES change at a time."""
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as directory:
        yield from asyncio.run(_Bench(Path(directory)).run(repeat))


class _Bench:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._git = root / "git"
        self._round = 0
        database = Database(root / "volumes.sqlite")
        committed = CommittedVolumes(database)
        committed.create(_VOLUME, version=2)
        self._copies = WorkingCopies(root / "copies", committed, ContentStore(root / "content"))

    async def run(self, repeat: int) -> list[Figure]:
        """Measure everything, alternating between the figure and its baselines."""
        writer, reader = await self._mount(), await self._mount()
        _fill(writer.path)
        await writer.commit("bench:")
        shutil.copytree(writer.path, self._git)
        self._run_git("init", "-q")
        self._git_commit()
        taken: dict[str, list[float]] = {
            name: [] for name in ("next mount", "first mount", "commit", "reload", "cp -a", "git commit", "rsync")
        }
        await reader.reload()
        await (await self._mount()).release()
        for _ in range(repeat):
            self._change(writer.path, self._git)
            taken["commit"].append(await _timed(lambda: writer.commit("bench:")))
            taken["reload"].append(await _timed(reader.reload))
            again = await self._timed_mount(taken["next mount"])
            first = await self._timed_mount(taken["first mount"])
            await first.discard()
            await again.release()
            taken["cp -a"].append(self._copied(writer.path))
            taken["git commit"].append(bare_processes.milliseconds(self._git_commit))
            if shutil.which("rsync"):
                taken["rsync"].append(self._synced(writer.path))
        samples = {name: Samples(name, tuple(values)) for name, values in taken.items() if values}
        others = [samples[name] for name in ("rsync",) if name in samples]
        size = f"{FILES} files"
        return [
            *(
                Figure(f"{which} mount {size}", "ms", "less", samples[f"{which} mount"], (samples["cp -a"], *others))
                for which in ("first", "next")
            ),
            Figure(f"commit {CHANGES} of {size}", "ms", "less", samples["commit"], (samples["git commit"], *others)),
            Figure(f"reload {CHANGES} of {size}", "ms", "less", samples["reload"], (samples["cp -a"], *others)),
        ]

    async def _mount(self) -> WorkingCopy:
        return await self._copies.mount(_VOLUME)

    async def _timed_mount(self, taken: list[float]) -> WorkingCopy:
        """Mount the volume, and add the time that it took to `taken`. It finds the directory of the mount before it."""
        started = asyncio.get_running_loop().time()
        copy = await self._mount()
        taken.append((asyncio.get_running_loop().time() - started) * 1000)
        return copy

    def _change(self, *trees: Path) -> None:
        self._round += 1
        for number in range(CHANGES):
            data = f"round {self._round} of file {number}\n" * 100
            for tree in trees:
                _path(tree, number * (FILES // CHANGES)).write_text(data)

    def _copied(self, source: Path) -> float:
        target = self._root / f"copy-{self._round}"
        return bare_processes.to_end(["cp", "-a", str(source), str(target)])

    def _synced(self, source: Path) -> float:
        return bare_processes.to_end(["rsync", "-a", "--delete", f"{source}/", f"{self._root / 'synced'}/"])

    def _git_commit(self) -> None:
        self._run_git("add", "-A")
        self._run_git("commit", "-q", "-m", str(self._round))

    def _run_git(self, *arguments: str) -> None:
        subprocess.run([*_GIT, *arguments], cwd=self._git, check=True, timeout=bare_processes.TIMEOUT_S)


def _path(tree: Path, number: int) -> Path:
    return tree / f"package{number % 20}" / f"module{number}.py"


def _fill(tree: Path) -> None:
    for number in range(FILES):
        path = _path(tree, number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(_FILE_BYTES))


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await work()
    return (loop.time() - started) * 1000

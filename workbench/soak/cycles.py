"""Phase 1: create a sandbox, run programs that resist being ended, end it at a random moment, look for leftovers.

It uses the local cloud's sandbox engine directly, and looks at the machine after every sandbox.
"""

import asyncio
import contextlib
import os
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from workbench.local_cloud import (
    BindMount,
    Engine,
    ExitStatus,
    Sandbox,
    SandboxSpec,
    SandboxStartFailedError,
    isolation_uid,
    remove_tree,
)
from workbench.soak.leftovers import Scene
from workbench.soak.soak_failures import SoakFailedError

_PATIENCE_S = 10.0
_DEADLINE_S = 60.0
_START_S = 25.0  # more than the engine itself waits for a sandbox's agent
_LISTEN = (
    "import socket, time; a = socket.create_server(('127.0.0.1', 0)); b = socket.socket(socket.AF_UNIX); "
    "b.bind('\\0soak'); b.listen(); time.sleep(1000)"
)


@dataclass(frozen=True)
class Program:
    """A program to run in a sandbox; `code` is its exit code if it ends by itself, else None."""

    name: str
    argv: tuple[str, ...]
    code: int | None = None
    terminal: tuple[int, int] | None = None


def _shell(name: str, script: str, *, code: int | None = None) -> Program:
    return Program(name, ("sh", "-c", script), code)


PROGRAMS = (
    _shell("ends", "exit 7", code=7),
    _shell("ends with output", "seq 1 2000; seq 1 2000 >&2", code=0),
    _shell("commits", "echo x > /workspace/kept && sync /workspace", code=0),
    _shell("spins", "while :; do :; done"),
    _shell("forks", "for n in 1 2 3 4 5 6 7 8; do setsid sh -c 'sleep 1000 & sleep 1000' & done; wait"),
    _shell("forks away", "(setsid sleep 1000 &); (setsid sleep 1000 &)"),
    _shell("prints", "yes 'a line that is printed again and again'"),
    _shell("writes", "n=0; while :; do n=$((n+1)); mkdir -p d$n; head -c 65536 /dev/zero > d$n/f; cp d$n/f /tmp; done"),
    _shell("locks", "mkdir -p a/b && chmod 0 a/b && chmod 0 a && sleep 1000"),
    _shell("ignores signals", "trap '' TERM INT HUP QUIT; while :; do sleep 1; done"),
    _shell("stops", "kill -STOP $$"),
    _shell("closes its output", "exec >&- 2>&-; sleep 1000"),
    Program("listens", ("python3", "-S", "-c", _LISTEN)),
    Program("reads", ("cat",)),
    Program("terminal", ("sh", "-i"), terminal=(24, 80)),
)
End = Literal["terminate", "discard", "kill programs first", "twice at once", "while it starts", "while programs start"]
ENDS: tuple[End, ...] = get_args(End)


@dataclass(frozen=True)
class Cycle:
    """One round: its programs, when and how its sandbox is ended. All of it follows from the seed and the number."""

    number: int
    programs: tuple[Program, ...]
    timeout_s: float | None
    delay_s: float
    end: End

    @classmethod
    def choose(cls, seed: int, number: int) -> "Cycle":
        """Choose a round; the same seed and number always give the same round."""
        chance = random.Random(f"{seed}/cycles/{number}")  # noqa: S311  # to be repeated, not to be secret
        programs = tuple(chance.choices(PROGRAMS, k=chance.randint(1, 3)))
        timeout_s = chance.choice((None, None, None, chance.uniform(0, 0.3)))
        end = chance.choices(ENDS, weights=(4, 4, 2, 1, 1, 1))[0]
        return cls(number, programs, timeout_s, chance.choice((0.0, chance.uniform(0, 0.3))), end)

    def __str__(self) -> str:
        names = ", ".join(program.name for program in self.programs)
        return f"cycle {self.number} ({names}; {self.end} after {self.delay_s:.3f} s)"


async def run(scene: Scene, seed: int, numbers: range, *, advance: Callable[[], None]) -> dict[str, object]:
    """Run the rounds with these numbers, and return figures. Raises SoakFailedError, which names the failed round."""
    sandboxes, workspaces = scene.root / "sandboxes", scene.root / "workspaces"
    workspaces.mkdir(mode=0o711, exist_ok=True)
    scene.owners.add(os.getpid())
    scene.watched += (sandboxes, workspaces)
    ends: Counter[str] = Counter()
    engine = Engine(sandboxes)
    async with _closing(engine):
        before = await asyncio.to_thread(scene.look)
        for number in numbers:
            cycle = Cycle.choose(seed, number)
            workspace = Path(tempfile.mkdtemp(dir=workspaces))
            if os.geteuid() == 0:
                os.chown(workspace, isolation_uid(number), isolation_uid(number))
            try:
                await asyncio.wait_for(_run(engine, cycle, workspace), _DEADLINE_S)
            except Exception as error:  # any failure must name its round, so that it can be repeated
                kind = "" if isinstance(error, SoakFailedError) else f"{type(error).__name__}: "
                raise SoakFailedError(f"{cycle}: {kind}{error}") from error
            finally:
                await asyncio.to_thread(remove_tree, workspace)
            await asyncio.to_thread(scene.expect, before, str(cycle), timeout_s=_PATIENCE_S)
            ends[cycle.end] += 1
            advance()
    return {"ends": dict(ends)}


@contextlib.asynccontextmanager
async def _closing(engine: Engine) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(
            Exception
        ):  # cleaning up after a failure may fail as well; only the first failure is told
            await engine.aclose()
        raise
    await engine.aclose()


async def _run(engine: Engine, cycle: Cycle, workspace: Path) -> None:
    async def on_sync(_: str, __: str) -> str:
        return ""

    spec = SandboxSpec(
        sandbox_id=f"soak-{cycle.number}",
        uid=isolation_uid(cycle.number),
        mounts=(BindMount(workspace, "/workspace"),),
        workdir="/workspace",
    )
    creating = asyncio.ensure_future(engine.create(spec, on_sync=on_sync))
    cut_off = cycle.end == "while it starts"
    try:
        await asyncio.wait([creating], timeout=cycle.delay_s / 5 if cut_off else None)
        if not cut_off:
            await _use(engine, cycle, creating.result())
    finally:
        if cut_off:
            creating.cancel()
        await asyncio.wait([creating], timeout=_START_S)
        if not creating.done():
            raise SoakFailedError("a start that was interrupted has no end")
        if not creating.cancelled() and creating.exception() is None:
            await engine.discard(creating.result())


async def _use(engine: Engine, cycle: Cycle, sandbox: Sandbox) -> None:
    starting = [
        sandbox.exec(
            program.argv,
            exec_id=str(number),
            timeout_s=cycle.timeout_s if program.code is None else None,
            terminal=program.terminal,
        )
        for number, program in enumerate(cycle.programs)
    ]
    if cycle.end == "while programs start":
        *ends, _ = await asyncio.gather(*starting, sandbox.terminate(), return_exceptions=True)
        if wrong := [
            end for end in ends if isinstance(end, Exception) and not isinstance(end, SandboxStartFailedError)
        ]:
            raise wrong[0]
        return
    runs = [await start for start in starting]
    await asyncio.sleep(cycle.delay_s)
    if cycle.delay_s:
        for run, program in zip(runs, cycle.programs, strict=True):
            if program.code is not None and await run.wait() != ExitStatus(code=program.code):
                raise SoakFailedError(f"'{program.name}' ended with {run.poll()}")
    match cycle.end:
        case "kill programs first":
            for run in runs:
                await sandbox.execs.kill(run.exec_id)
            await sandbox.terminate()
        case "twice at once":
            await asyncio.gather(sandbox.terminate(), sandbox.terminate(), engine.discard(sandbox))
        case "terminate":
            await sandbox.terminate()
        case _:
            await engine.discard(sandbox)
    if any(run.poll() is None for run in runs):
        raise SoakFailedError("a program has not ended with its sandbox")

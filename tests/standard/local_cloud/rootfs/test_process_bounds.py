"""What the kernel counts for the user outside: a sandbox or a container that has used it up leaves the others theirs.

Of processes its own alone are counted, and all of them. Descriptors on their way through sockets are counted for all.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.rooted import spec_on
from tests.support.sandboxes import DEADLINE_S, run, spec_of
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.rootfs import starting
from workbench.local_cloud.rootfs.ids import ids
from workbench.local_cloud.rootfs.layers import Root
from workbench.local_cloud.rootfs.mounting import Places
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.isolation import seccomp_program
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.limits.cgroups import Cgroups
from workbench.local_cloud.sandboxes.limits.sandbox_limits import Limits

Opened = Callable[..., Root]
FEW = replace(Limits(), processes=60)
PROCESSES = "while True:\n  if os.fork() == 0: time.sleep(600)\n"
THREADS = "while True: threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
SESSIONS = "while True:\n  if os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
ALL_OF = "import os, threading, time\ntry:\n  {}except (BlockingIOError, RuntimeError): print('full', flush=True)\n"
FILLED = {
    name: ALL_OF.format(code.replace("\n", "\n  ")[:-2])
    for name, code in (("processes", PROCESSES), ("threads", THREADS), ("sessions", SESSIONS))
}
MANY_USERS = (
    "import os, time\n"
    "for uid in range(1000, 1008):\n"
    "  if os.fork() == 0:\n"
    "    os.setresuid(uid, uid, uid)\n"
    "    for _ in range(40):\n"
    "      try:\n"
    "        if os.fork() == 0: time.sleep(600)\n"
    "      except OSError: break\n"
    "    os._exit(0)\n"
    "  os.wait()\n"
    "print(sum(name.isdigit() for name in os.listdir('/proc')), flush=True)\n"
)
ON_THEIR_WAY = """
import array, resource, socket, time
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
kept = []
try:
    while True:
        kept.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        for _ in range(5):
            kept[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 250))])
except OSError as error:
    print("full" if error.errno == 109 else error, flush=True)
time.sleep(600)
"""
FORKS = "for number in 1 2 3 4 5; do (/bin/true); done; echo forks"


@pytest.fixture
async def other(root: Path) -> AsyncIterator[Engine]:
    """The engine of another cloud on this machine, whose sandboxes belong to the same users outside."""
    engine = Engine(root / "other")
    yield engine
    await engine.aclose()


@pytest.fixture
def no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have engines that are made from here find no control groups."""
    monkeypatch.setattr(Cgroups, "detect", lambda: Cgroups("none", ()))


async def _fill(sandbox: Sandbox, code: str) -> None:
    """Run a program that takes all processes that it can get, and keeps them."""
    process = await sandbox.exec(["python3", "-c", f"{code}time.sleep(600)\n"], exec_id="full")
    assert await asyncio.wait_for(process.stdout.read(0), DEADLINE_S) == b"full\n"


@pytest.mark.parametrize("code", FILLED.values(), ids=FILLED)
async def test_a_sandbox_without_a_process_left_leaves_another_clouds_theirs(
    engine: Engine, other: Engine, base: str, open_root: Opened, code: str
) -> None:
    """The kernel counts for users outside, and two clouds take the same ones."""
    first = await engine.create(spec_on(open_root(base), limits=FEW))
    second = await other.create(spec_on(open_root(base), limits=FEW))
    await _fill(first, code)
    assert (await run(second, "/bin/sh", "-c", FORKS))[1:] == ("forks\n", "")
    assert (await run(first, "/bin/true"))[0].code == 126  # it is bounded


async def test_sandboxes_of_one_user_have_each_their_processes(engine: Engine, base: str, open_root: Opened) -> None:
    first, second = [await engine.create(spec_on(open_root(base), limits=FEW)) for _ in range(2)]
    await _fill(first, FILLED["processes"])
    assert (await run(second, "/bin/sh", "-c", FORKS))[1:] == ("forks\n", "")


async def test_sandboxes_on_this_machines_system_have_each_their_processes(engine: Engine, workspace: Path) -> None:
    """Those of one project run as one user."""
    first, second = [await engine.create(spec_of(workspace, limits=FEW)) for _ in range(2)]
    await _fill(first, FILLED["processes"])
    assert (await run(second, "/bin/sh", "-c", FORKS))[1:] == ("forks\n", "")


async def test_a_container_without_a_process_left_leaves_the_others_theirs(
    base: str, open_root: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of functions and the steps of builds all belong to one user outside."""
    monkeypatch.setattr(starting, "MAX_PROCESSES", FEW.processes)
    async with AsyncExitStack() as running:
        hog = await running.enter_async_context(
            _container(open_root(base), "python3", "-c", f"{FILLED['processes']}time.sleep(600)\n")
        )
        assert await asyncio.wait_for(hog.stdout.readline(), DEADLINE_S) == b"full\n"
        free = await running.enter_async_context(_container(open_root(base), "/bin/sh", "-c", FORKS))
        out, err = await asyncio.wait_for(asyncio.gather(free.stdout.read(), free.stderr.read()), DEADLINE_S)
    assert (out, err) == (b"forks\n", b"")


@asynccontextmanager
async def _container(root: Root, *words: str) -> AsyncIterator[Program]:
    seccomp = seccomp_program(rooted=True)
    with starting.ordered(root, Places(), ["--", *words], env={}, seccomp=seccomp, owner=ids().root) as (order, kept):
        program = await Program.start(*starting.command(order), env={}, pass_fds=kept, cwd="/")
    try:
        yield program
    finally:
        await program.aclose()


async def test_the_processes_of_all_users_inside_are_bounded_together(
    engine: Engine, base: str, open_root: Opened
) -> None:
    """A limit for each user would be none: root inside can be many."""
    await _require_bound(await engine.create(spec_on(open_root(base), limits=FEW)))


async def test_they_are_bounded_where_there_are_no_control_groups(
    no_groups: None, engine: Engine, base: str, open_root: Opened
) -> None:
    sandbox = await engine.create(spec_on(open_root(base), limits=FEW))
    assert sandbox.group.version == "none"
    await _require_bound(sandbox)
    other = await engine.create(spec_on(open_root(base), limits=FEW))
    assert (await run(other, "/bin/sh", "-c", FORKS))[1:] == ("forks\n", "")


async def _require_bound(sandbox: Sandbox) -> None:
    process = await sandbox.exec(["python3", "-c", f"{MANY_USERS}time.sleep(600)"], exec_id="many")
    made = int(await asyncio.wait_for(process.stdout.read(0), DEADLINE_S))
    assert 20 < made <= 62


@pytest.mark.parametrize("elsewhere", [False, True], ids=["of this cloud", "of another cloud"])
async def test_descriptors_on_their_way_in_one_sandbox_keep_no_other_from_starting(
    engine: Engine, other: Engine, base: str, open_root: Opened, elsewhere: bool
) -> None:
    """Nor one that runs from starting programs."""
    hog, runs = [await engine.create(spec_on(open_root(base))) for _ in range(2)]
    await _fill(hog, ON_THEIR_WAY)
    new = await (other if elsewhere else engine).create(spec_on(open_root(base)))
    for sandbox in (runs, new, hog):
        for terminal in (None, (24, 80)):
            process = await sandbox.exec(["/bin/echo", "on"], exec_id=f"on-{terminal}", terminal=terminal)
            assert (await asyncio.wait_for(process.wait(), DEADLINE_S)).code == 0


async def test_descriptors_on_their_way_in_a_container_keep_no_sandbox_from_starting(
    engine: Engine, base: str, open_root: Opened
) -> None:
    async with _container(open_root(base), "python3", "-c", ON_THEIR_WAY) as hog:
        assert await asyncio.wait_for(hog.stdout.readline(), DEADLINE_S) == b"full\n"
        sandbox = await engine.create(spec_on(open_root(base)))
        assert (await run(sandbox, "/bin/sh", "-c", FORKS))[1:] == ("forks\n", "")

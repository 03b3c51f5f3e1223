"""Launchers that wait for orders: few, nobody's before their order, and gone with the cloud however that ends."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.rooted import spec_on
from tests.support.sandboxes import DEADLINE_S
from workbench.local_cloud.rootfs.layers import Root, order_descriptor
from workbench.local_cloud.rootfs.warm_launchers import MOST, WarmLaunchers
from workbench.local_cloud.sandboxes.engine.engine import Engine

_CLOUD = """
import asyncio
from workbench.local_cloud.rootfs.warm_launchers import MOST, WarmLaunchers

async def main():
    launchers = WarmLaunchers()
    launchers.refill()
    while len(launchers.pids) < MOST:
        await asyncio.sleep(0.01)
    print(*launchers.pids, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def _come(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not reached():  # noqa: ASYNC110  # other processes get there
            await asyncio.sleep(0.01)


async def _full(launchers: WarmLaunchers) -> list[int]:
    await _come(lambda: len(launchers.pids) >= MOST)
    return launchers.pids


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _kinds(pid: int) -> list[str]:
    """What the descriptors of a process lead to; of one that still imports, a file of Python's may be open."""
    opened = []
    for found in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            opened.append(str(found.readlink()))
    return sorted(name.partition(":")[0] for name in opened)


async def _are_gone(pids: list[int]) -> bool:
    await _come(lambda: not any(map(_runs, pids)))
    return True


@pytest.fixture
async def launchers() -> AsyncIterator[WarmLaunchers]:
    launchers = WarmLaunchers()
    yield launchers
    await launchers.aclose()


async def test_as_many_wait_as_may_and_they_end_with_their_owner(launchers: WarmLaunchers) -> None:
    for _ in range(3):
        launchers.refill()
    pids = await _full(launchers)
    launchers.refill()
    await asyncio.sleep(0)
    assert launchers.pids == pids
    await launchers.aclose()
    launchers.refill()
    assert launchers.pids == []
    assert await _are_gone(pids)


async def test_one_that_waits_has_nothing_of_anybody(launchers: WarmLaunchers) -> None:
    """Its namespaces are the machine's, and its descriptors are three for nothing and its own socket."""
    launchers.refill()
    for pid in await _full(launchers):
        process = psutil.Process(pid)
        await _come(lambda process=process: "launcher.py" in " ".join(process.cmdline()))  # type: ignore[misc]  # bound
        assert process.cwd() == "/"
        assert set(process.environ()) <= {"WORKBENCH_CLOUD_RUN"}
        own = Path(f"/proc/{pid}")
        await _come(lambda pid=pid: _kinds(pid) == ["/dev/null", "/dev/null", "pipe", "socket"])  # type: ignore[misc]
        for kind in ("user", "pid", "net", "uts"):
            assert (own / "ns" / kind).readlink() == (Path("/proc/self/ns") / kind).readlink()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_cloud_that_is_ended_leaves_none(number: signal.Signals) -> None:
    command = [sys.executable, "-c", _CLOUD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cloud:  # noqa: ASYNC220  # it is waited for
        assert cloud.stdout is not None
        pids = [int(word) for word in cloud.stdout.readline().split()]
        assert len(pids) == MOST
        cloud.send_signal(number)
        cloud.wait(DEADLINE_S)
        assert await _are_gone(pids)


@pytest.mark.parametrize("killed", [1, MOST])
async def test_one_that_was_ended_is_replaced_and_no_sandbox_waits_for_it(
    engine: Engine, base: str, open_root: Callable[..., Root], workspace: Path, killed: int
) -> None:
    await engine.discard(await engine.create(spec_on(open_root(base), workspace)))
    pids = await _full(engine.launchers)
    for pid in pids[:killed]:
        os.kill(pid, signal.SIGKILL)
    assert await _are_gone(pids[:killed])
    sandbox = await engine.create(spec_on(open_root(base), workspace))
    run = await sandbox.exec(["true"], exec_id="after")
    assert (await asyncio.wait_for(run.wait(), DEADLINE_S)).code == 0
    assert not set(await _full(engine.launchers)) & set(pids[:killed])
    await engine.discard(sandbox)


async def test_each_becomes_the_one_sandbox_that_its_order_is_for(
    engine: Engine, base: str, open_root: Callable[..., Root], workspace: Path
) -> None:
    await engine.discard(await engine.create(spec_on(open_root(base), workspace)))
    pids = await _full(engine.launchers)
    sandboxes = [await engine.create(spec_on(open_root(base), workspace, name=f"sb-{number}")) for number in (1, 2)]
    assert [sandbox.pid for sandbox in sandboxes] == pids
    assert not set(engine.launchers.pids) & set(pids)


async def test_an_order_that_cannot_be_carried_out_ends_its_launcher_alone(launchers: WarmLaunchers) -> None:
    launchers.refill()
    pids = await _full(launchers)
    order = order_descriptor(b"no order")
    try:
        program = await launchers.start(order, [])
    finally:
        os.close(order)
    assert program.pid == pids[0]
    assert await asyncio.wait_for(program.wait(), DEADLINE_S) != 0
    await program.aclose()
    assert launchers.pids == pids[1:]

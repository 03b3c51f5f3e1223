"""Who is dead, and who was only late: owners and those who look at them, on the shared records of a cloud."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest

from modal_app.runs.ownership import Ownership, Pulse
from modal_app.runs.shared_state import SharedState
from workbench.cloud_control.controls import CloudControl, Faults
from workbench.local_cloud import Running

pytestmark = pytest.mark.timeout(120)
LEASE_S = 1.5
DEADLINE_S = 60
SUSPECT_S = 2 * LEASE_S + 3  # after so much silence, whoever looks takes an owner for dead
APP = "owners"
# An owner in a process of its own. It prints its name, then whether it may write each time it is asked.
OWNER = f"""
import asyncio, structlog, sys
from modal_app.runs.ownership import Ownership
from modal_app.runs.shared_state import SharedState

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    owner = Ownership(SharedState.named({APP!r}), lease_s={LEASE_S}, on_lost=lambda: print("lost", flush=True))
    await owner.start()
    print(owner.owner, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(await owner.may_write(), flush=True)

asyncio.run(main())
"""


@pytest.fixture
def shared(cloud: Running) -> SharedState:
    return SharedState.named(APP)


@asynccontextmanager
async def owning(shared: SharedState) -> AsyncIterator[Ownership]:
    owner = Ownership(shared, lease_s=LEASE_S, on_lost=lambda: None)
    await owner.start()
    try:
        yield owner
    finally:
        await owner.aclose()


@asynccontextmanager
async def owner_elsewhere() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """An owner in another process, and its name."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, stdin=pipe, stdout=pipe)
    try:
        yield process, await said(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def said(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode().strip()


async def ask(process: asyncio.subprocess.Process) -> str:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    return await said(process)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Have a process get no processor for the duration of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def dead(shared: SharedState, name: str) -> bool:
    return await Pulse(shared, lease_s=LEASE_S).is_dead(name)


@pytest.mark.parametrize("rpc", ["DictUpdate", "Dict*", "*"])
async def test_an_owner_whose_calls_fail_for_longer_than_its_lease_is_back_with_them(
    shared: SharedState, cloud: Running, rpc: str
) -> None:
    """Nobody has taken it for dead meanwhile: its runs have lost nothing."""
    faults = Faults(CloudControl(cloud.http_url, cloud.env()))
    async with owning(shared) as owner:
        with faults.injected(at="call", rpc=rpc, status="UNAVAILABLE"):
            await asyncio.sleep(LEASE_S + 1)
            writing = asyncio.create_task(owner.may_write())
            await asyncio.sleep(0)
            assert not writing.done()
        assert await asyncio.wait_for(writing, DEADLINE_S)
        assert not owner.lost
        assert not await dead(shared, owner.owner)


async def test_a_cloud_that_stands_still_costs_no_owner_its_runs(shared: SharedState, cloud: Running) -> None:
    """All beats fail together, and nobody is dead."""
    async with owning(shared) as one, owning(shared) as other:
        for _ in range(2):
            with stopped(cloud.pid):
                await asyncio.sleep(SUSPECT_S)
            found = [await asyncio.wait_for(owner.may_write(), DEADLINE_S) for owner in (one, other)]
            assert found == [True, True]
            assert not await dead(shared, one.owner)


async def test_an_owner_that_got_no_processor_is_back_when_nobody_has_looked(shared: SharedState) -> None:
    async with owner_elsewhere() as (process, name):
        assert await ask(process) == "True"
        with stopped(process.pid):
            await asyncio.sleep(SUSPECT_S)
        assert await ask(process) == "True"
        assert not await dead(shared, name)


async def test_an_owner_that_others_have_taken_for_dead_is_lost_for_good(shared: SharedState) -> None:
    async with owner_elsewhere() as (process, name):
        with stopped(process.pid):
            await asyncio.sleep(SUSPECT_S)
            assert await dead(shared, name)
        assert sorted([await ask(process), await said(process)]) == ["False", "lost"]
        assert await ask(process) == "False"
        assert await dead(shared, name)


@pytest.mark.parametrize("beats_again", [True, False])
async def test_an_owner_that_was_back_can_still_die(shared: SharedState, beats_again: bool) -> None:
    """Also before it has put another beat."""
    async with owner_elsewhere() as (process, name):
        with stopped(process.pid):
            await asyncio.sleep(SUSPECT_S)
        assert await ask(process) == "True"
        if beats_again:
            await asyncio.sleep(LEASE_S)
        process.kill()
        await process.wait()
        await asyncio.sleep(SUSPECT_S)
        assert await dead(shared, name)


async def test_all_agree_on_an_owner_that_comes_back_while_others_decide(shared: SharedState) -> None:
    """Either it goes on and nobody has acted, or somebody has and it does not."""
    async with owner_elsewhere() as (process, name):
        with stopped(process.pid):
            await asyncio.sleep(SUSPECT_S)
            looks = [asyncio.create_task(dead(shared, name)) for _ in range(8)]
            await asyncio.sleep(LEASE_S / 3)
        found = await asyncio.gather(*looks)
        first = await ask(process)
        is_lost = first != "True"
        assert is_lost or not any(found)
        assert await dead(shared, name) == is_lost


async def test_an_owner_that_has_left_is_dead_at_once(shared: SharedState) -> None:
    async with owning(shared) as owner:
        name = owner.owner
        assert not await dead(shared, name)
    assert await dead(shared, name)
    assert not await owner.may_write()

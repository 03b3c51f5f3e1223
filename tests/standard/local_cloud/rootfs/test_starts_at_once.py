"""How many sandboxes of a cloud start at the same time: a few, in the order in which they were asked for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.base.descriptors import OF_A_SANDBOX, Descriptors
from workbench.local_cloud.images.images import Image
from workbench.local_cloud.images.plans import ImageConfig
from workbench.local_cloud.rootfs.layers import Layers
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.host_users import Users
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.ledger import Ledger
from workbench.local_cloud.sandboxes.network.egress_policy import EgressPolicy
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.sandboxes.sandboxes import STARTS_AT_ONCE, Sandboxes
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.volumes.committed import CommittedVolumes
from workbench.local_cloud.volumes.working_copies import WorkingCopies

DEADLINE_S = 60
_OPEN_EACH = 15  # descriptors of a sandbox that runs, at most
_REST = 48


class Cloud:
    """The sandboxes of a cloud, whose starts go on until the gate is opened."""

    def __init__(self, sandboxes: Sandboxes, image: Image) -> None:
        self.sandboxes = sandboxes
        self.gate = asyncio.Event()
        self.starting: list[str] = []  # names, in the order in which their starts have begun
        self._image = image

    def ask(self, name: str, *, fails: bool = False) -> "asyncio.Task[Record]":
        """Ask for a sandbox."""

        async def prepare(sandbox: Sandbox) -> None:
            self.starting.append(name)
            await self.gate.wait()
            if fails:
                raise RuntimeError("it does not start")

        creating = self.sandboxes.create(
            app_id="ap-1",
            app_name="app",
            environment="main",
            definition=api_pb2.Sandbox(name=name, entrypoint_args=["sleep", "600"], timeout_secs=600),
            tags={},
            env={},
            image=self._image,
            egress=EgressPolicy.blocked(),
            prepare=prepare,
        )
        return asyncio.create_task(creating)

    async def has_begun(self, count: int) -> None:
        """Wait until so many starts have begun, and see whether more do."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.starting) < count:  # noqa: ASYNC110  # what a hook has been called for
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(self.starting) == count


@pytest.fixture
async def cloud(root: Path, engine: Engine, layers: Layers, base: str) -> AsyncIterator[Cloud]:
    database, content = Database(root / "cloud.sqlite"), ContentStore(root / "content")
    copies = WorkingCopies(root / "copies", CommittedVolumes(database), content)
    files = root / "files"
    files.mkdir()
    sandboxes = Sandboxes(
        engine,
        copies,
        Clocks(lambda function_id: function_id),
        Ledger(database),
        Users(database),
        files,
        layers=layers,
        lay_out=lambda mounts, target: None,
        on_notice=lambda record, text: None,
        on_output=lambda *_: None,
    )
    config = ImageConfig(layers=(base,))
    made = Cloud(sandboxes, Image("im-1", "built", config, None, "", (), 0, 0))
    yield made
    await sandboxes.aclose()
    copies.close()
    content.close()
    database.close()


def names(count: int) -> list[str]:
    return [f"sandbox-{number}" for number in range(count)]


async def test_few_start_at_the_same_time_and_all_of_them_run_in_the_end(cloud: Cloud) -> None:
    """Those who wait hold none of the descriptors that those who start need."""
    count = 3 * STARTS_AT_ONCE
    limit = _open() + _REST + STARTS_AT_ONCE * OF_A_SANDBOX + count * _OPEN_EACH
    cloud.sandboxes.descriptors = Descriptors(limit=lambda: limit)
    asked = [cloud.ask(name) for name in names(count)]
    await cloud.has_begun(STARTS_AT_ONCE)
    assert len(cloud.sandboxes.all()) == STARTS_AT_ONCE
    cloud.gate.set()
    async with asyncio.timeout(DEADLINE_S):
        records = await asyncio.gather(*asked)
    assert [record.name for record in records] == names(count)
    assert {record.result for record in records} == {None}


async def test_they_start_in_the_order_in_which_they_were_asked_for(cloud: Cloud) -> None:
    asked = []
    for number, name in enumerate(names(STARTS_AT_ONCE)):
        asked.append(cloud.ask(name))
        await cloud.has_begun(number + 1)
    waiting = [cloud.ask(name) for name in ("first", "second", "third")]
    await asyncio.sleep(0)
    for number, name in enumerate(("first", "second", "third")):
        asked.pop().cancel()  # a start that is given up makes room for one
        await cloud.has_begun(STARTS_AT_ONCE + number + 1)
        assert cloud.starting[-1] == name
    cloud.gate.set()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*waiting)


@pytest.mark.parametrize("leave", ["waiting", "starting", "failing"])
async def test_who_leaves_takes_no_turn_along(cloud: Cloud, leave: str) -> None:
    """Whether it is given up while it waits, while it starts, or does not start at all."""
    first = [cloud.ask(name, fails=leave == "failing") for name in names(STARTS_AT_ONCE)]
    await cloud.has_begun(STARTS_AT_ONCE)
    gone, last = [cloud.ask(f"gone-{number}") for number in range(3)], cloud.ask("last")
    await asyncio.sleep(0)
    if leave == "waiting":
        for one in gone:
            one.cancel()
    elif leave == "starting":
        for one in first:
            one.cancel()
    cloud.gate.set()
    async with asyncio.timeout(DEADLINE_S):
        assert (await last).name == "last"
        ends = await asyncio.gather(*first, *gone, return_exceptions=True)
        again = await asyncio.gather(*(cloud.ask(f"again-{number}") for number in range(STARTS_AT_ONCE)))
    assert len(again) == STARTS_AT_ONCE
    assert sum(isinstance(end, BaseException) for end in ends) == (3 if leave == "waiting" else STARTS_AT_ONCE)


def _open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())

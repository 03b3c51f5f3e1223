"""The agent runs inside: whatever it says is a guest's word, and descriptors that it sends are a guest's gifts."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.sandboxes import DEADLINE_S, spec_of
from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.sandboxes.engine.execs import Exec
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.limits.cgroups import Group
from workbench.local_cloud.sandboxes.limits.free_disk import Disks
from workbench.local_cloud.sandboxes.network import loopback_sockets

Say = Callable[..., None]


class Hostile(Sandbox):
    """A sandbox whose agent is the test."""

    def __init__(self, directory: Path) -> None:
        self.syncs = 0
        self.released = asyncio.Event()
        group = Group("none", ())
        super().__init__(
            spec_of(directory), self._hold, lambda text: None, directory, group, clock=Clock(), disks=Disks()
        )
        self.theirs = self._channel.theirs
        self._channel.listen()

    async def _hold(self, path: str, exec_id: str) -> int:
        self.syncs += 1
        await self.released.wait()
        return 0

    def say(self, message: object, *descriptors: int) -> None:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        socket.send_fds(self.theirs, [data], descriptors)

    def program(self, name: str) -> Exec:
        return self.execs.add(name)

    async def close(self) -> None:
        self.released.set()
        await self.discard()


@pytest.fixture
async def hostile(tmp_path: Path) -> AsyncIterator[Hostile]:
    before = len(os.listdir("/proc/self/fd"))
    hostile = Hostile(tmp_path)
    yield hostile
    await hostile.close()
    assert len(os.listdir("/proc/self/fd")) <= before  # every gift was closed; the collector may close others


async def heard(hostile: Hostile) -> None:
    """Return when everything that was said has been taken: a known program's end comes last."""
    run = hostile.program("last")
    hostile.say({"op": "exit", "id": "last", "code": 0})
    await asyncio.wait_for(run.wait(), DEADLINE_S)


NONSENSE = [b"\xff\xfe", b"[]", b"null", b"1", b'{"op": "exit"}', b'{"op": 1}', b"[" * 100_000, b'{"op": "ready"}']
NONSENSE += [
    b'{"op": "exit", "id": {}, "code": "x"}',
    b'{"op": "sync", "number": "x", "path": 1}',
    b'{"op": "terminal"}',
]


@pytest.mark.parametrize("message", NONSENSE, ids=lambda message: repr(message[:30]))
async def test_nonsense_is_ignored(hostile: Hostile, message: bytes) -> None:
    hostile.say(message)
    await heard(hostile)
    assert not hostile._ready.is_set()


@pytest.mark.parametrize("code", [-65, 256, 10**9, -(10**9)])
async def test_an_exit_code_that_cannot_be_is_no_end(hostile: Hostile, code: int) -> None:
    run = hostile.program("one")
    hostile.say({"op": "exit", "id": "one", "code": code})
    hostile.say({"op": "exit", "id": "another", "code": 0})
    await heard(hostile)
    assert run.poll() is None


async def test_an_end_is_told_once(hostile: Hostile) -> None:
    run = hostile.program("one")
    hostile.say({"op": "exit", "id": "one", "code": 3})
    hostile.say({"op": "exit", "id": "one", "code": 0})
    await heard(hostile)
    assert (await run.wait()).code == 3


async def test_only_a_listening_socket_is_taken_for_one(hostile: Hostile) -> None:
    file = os.open("/etc/passwd", os.O_RDONLY)
    with socket.socket() as silent, socket.socket(socket.AF_UNIX) as local:
        for gift in (silent.fileno(), local.fileno(), file):
            hostile.say({"op": "ready", "uid": 0}, gift)
        await heard(hostile)
    os.close(file)
    assert not hostile._ready.is_set()


async def test_only_a_terminal_is_taken_for_one(hostile: Hostile, tmp_path: Path) -> None:
    """A gift that is a file or a device must never be written to."""
    run = hostile.program("one")
    (tmp_path / "file").write_text("kept")
    gifts = [os.open(tmp_path / "file", os.O_RDWR), os.open("/dev/zero", os.O_RDWR), *os.openpty()[::-1]]
    for gift in gifts[:-1]:  # the last one is a terminal's master side, and what is asked for
        hostile.say({"op": "terminal", "id": "one"}, gift)
    await heard(hostile)
    for gift in gifts:
        os.close(gift)
    await run.write_stdin(b"overwritten", offset=0, eof=True)
    assert (tmp_path / "file").read_text() == "kept"
    assert run.stdout.size == 0


async def test_gifts_that_nobody_asked_for_are_closed(hostile: Hostile) -> None:
    for _ in range(200):
        hostile.say({"op": "exit", "id": "nobody", "code": 0}, *[hostile.theirs.fileno()] * 4)
    await heard(hostile)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_sockets, "DIAL_S", 0.5)


async def dial_answered_by(hostile: Hostile, answer: Callable[[int], None]) -> None:
    """Ask for a connection to port 80, let the agent answer, and see that none is taken."""
    waiting = asyncio.ensure_future(hostile.dial(80))
    order = json.loads(await asyncio.get_running_loop().run_in_executor(None, hostile.theirs.recv, 4096))
    assert (order["op"], order["port"]) == ("dial", 80)
    answer(order["number"])
    with pytest.raises(OSError):
        await asyncio.wait_for(waiting, DEADLINE_S)


async def test_only_a_connection_to_the_port_is_taken_for_one(hostile: Hostile, impatient: None) -> None:
    """Not a file, not another family, nothing that listens, no connection elsewhere, none that never comes."""
    file = os.open("/etc/passwd", os.O_RDONLY)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as elsewhere,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket() as fresh,
    ):
        for gift in (server, elsewhere, local, datagrams, fresh):
            await dial_answered_by(
                hostile, lambda n, gift=gift: hostile.say({"op": "dialled", "number": n}, gift.fileno())
            )
        await dial_answered_by(hostile, lambda n: hostile.say({"op": "dialled", "number": n}, file))
    os.close(file)


async def test_only_what_listens_at_the_port_is_taken_for_a_listener(hostile: Hostile, impatient: None) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as elsewhere,
        socket.create_connection(server.getsockname()) as connected,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket() as fresh,
    ):
        port = server.getsockname()[1]
        for gift in (elsewhere, connected, local, fresh, None):
            waiting = asyncio.ensure_future(hostile.listen(port))
            order = json.loads(await asyncio.get_running_loop().run_in_executor(None, hostile.theirs.recv, 4096))
            assert (order["op"], order["port"]) == ("listen", port)
            hostile.say({"op": "dialled", "number": order["number"]}, *([gift.fileno()] if gift is not None else []))
            with pytest.raises(OSError):
                await asyncio.wait_for(waiting, DEADLINE_S)


async def test_a_dial_that_is_refused_or_not_answered_ends(hostile: Hostile, impatient: None) -> None:
    await dial_answered_by(hostile, lambda n: hostile.say({"op": "dialled", "number": n}))
    await dial_answered_by(hostile, lambda n: hostile.say({"op": "dialled", "number": n + 1}))
    await dial_answered_by(hostile, lambda n: None)


async def test_connections_that_nobody_asked_for_are_closed(hostile: Hostile) -> None:
    for number in ("1", 1, -1, None, 10**30):
        hostile.say({"op": "dialled", "number": number}, hostile.theirs.fileno())
    await heard(hostile)


async def test_a_dial_that_is_given_up_leaves_nothing(hostile: Hostile) -> None:
    """The fixture counts descriptors."""
    waiting = asyncio.ensure_future(hostile.dial(80))
    order = json.loads(await asyncio.get_running_loop().run_in_executor(None, hostile.theirs.recv, 4096))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as gift:
        hostile.say({"op": "dialled", "number": order["number"]}, gift.fileno())
        await heard(hostile)


async def test_a_flood_of_commits_is_bounded(hostile: Hostile) -> None:
    for number in range(200):
        hostile.say({"op": "sync", "number": number, "path": "/workspace", "id": "nobody"})
    await heard(hostile)
    assert hostile.syncs <= 32

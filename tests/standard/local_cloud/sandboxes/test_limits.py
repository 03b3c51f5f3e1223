"""A sandbox that uses too much is stopped, with a reason, and nobody else notices."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.support.sandboxes import DEADLINE_S, run, spec_of
from workbench.local_cloud.base.guest_directories import remove_tree
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.host_users import isolation_uid
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import BindMount, ExitStatus, SandboxSpec
from workbench.local_cloud.sandboxes.limits import cgroups
from workbench.local_cloud.sandboxes.limits.cgroups import Cgroups
from workbench.local_cloud.sandboxes.limits.sandbox_limits import MEBIBYTE, Limits, limits_of
from workbench.local_cloud.sandboxes.limits.watchdog import UnmeasurableError, measure
from workbench.local_cloud.sandboxes.preparation import overlay_of
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.disk_reserve import RESERVE_VARIABLE
from workbench.local_cloud.volumes import overlay_mounts
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry
from workbench.local_cloud.volumes.working_copies import WorkingCopies

HOG = "data = []\nwhile True: data.append(bytearray(os.urandom(1 << 20)))"
SMALL = Limits(memory_bytes=128 * MEBIBYTE, workspace_bytes=32 * MEBIBYTE, workspace_entries=500)


def _groups_work() -> bool:
    found = Cgroups.detect()
    found.close()
    return found.version != "none"


GROUPS_WORK = _groups_work()


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
async def small(engine: Engine, workspace: Path, notices: list[str]) -> Sandbox:
    return await engine.create(spec_of(workspace, limits=SMALL), on_notice=notices.append)


async def ended(sandbox: Sandbox) -> None:
    await asyncio.wait_for(sandbox.wait_closed(), DEADLINE_S)


async def test_a_memory_hog_is_killed_and_told(small: Sandbox, notices: list[str]) -> None:
    """Its sandbox goes with it, as on Modal."""
    process = await small.exec(["python3", "-c", f"import os\n{HOG}"], exec_id="hog")
    assert await asyncio.wait_for(process.wait(), DEADLINE_S) == ExitStatus(signal=9)
    await ended(small)
    assert small.exceeded is not None
    assert small.exceeded.what == "memory"
    assert notices == ["the sandbox was ended: it used more than 128 MiB of memory"]


@pytest.mark.parametrize(
    "script",
    [
        'python3 -c "$1"',
        'python3 -c "$1" || echo on; sleep 600',
        '(python3 -c "$1" &) ; sleep 600',
        'setsid python3 -c "$1"; exit 0',
    ],
    ids=["below a shell", "whose parent goes on", "in the background", "whose parent says that all is well"],
)
async def test_whatever_program_it_is_the_sandbox_ends(small: Sandbox, script: str) -> None:
    process = await small.exec(["sh", "-c", script, "sh", f"import os\n{HOG}"], exec_id="hog")
    await ended(small)
    assert (await asyncio.wait_for(process.wait(), DEADLINE_S)).signal == 9
    assert small.exceeded is not None
    assert small.exceeded.what == "memory"


async def test_without_control_groups_the_watchdog_ends_a_memory_hog(
    root: Path, workspace: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cgroups, "detect", classmethod(lambda cls: cls("none", ())))
    engine = Engine(root / "without")
    sandbox = await engine.create(spec_of(workspace, limits=SMALL), on_notice=notices.append)
    process = await sandbox.exec(["python3", "-c", f"import os\n{HOG}"], exec_id="hog")
    await ended(sandbox)
    assert (await process.wait()).signal == 9
    assert notices == ["the sandbox was ended: it used more than 128 MiB of memory"]
    await engine.aclose()


FILL = {
    "by many files": "for n in range(100): open(f'f{n}', 'wb').write(os.urandom(1 << 20))",
    "by files without a name": (
        "held = []\n"
        "for n in range(100):\n"
        "  f = open('f', 'wb'); os.unlink('f'); f.write(os.urandom(1 << 20)); f.flush(); held.append(f)"
    ),
    "by names that are no text": "for n in range(100): open(b'\\xff%d' % n, 'wb').write(os.urandom(1 << 20))",
    "by many empty files": "for n in range(2000): open(f'f{n}', 'w')",
    "by a depth that nobody can follow": "for n in range(400): os.mkdir('d'); os.chdir('d')",
}


@pytest.mark.parametrize("how", FILL)
async def test_a_workspace_cannot_be_filled(small: Sandbox, notices: list[str], how: str) -> None:
    code = f"import os, time\n{FILL[how]}\ntime.sleep(600)"
    await small.exec(["python3", "-c", code], exec_id="fill")
    await ended(small)
    assert small.exceeded is not None
    assert notices == [f"the sandbox was ended: {small.exceeded}"]


@pytest.fixture
async def overlay(root: Path, without_overlay: str) -> AsyncIterator[SandboxSpec]:
    """A sandbox whose workspace is an overlay on 20 MiB of committed files."""
    if why := without_overlay or overlay_mounts.why_unusable(root):
        pytest.skip(why)
    database, content = Database(root / "cloud.sqlite"), ContentStore(root / "content")
    committed = CommittedVolumes(database)
    committed.create("vo-1", version=2)
    with content.batch() as batch:
        added = [batch.add_chunks([os.urandom(1 << 20)]) for _ in range(20)]
    entries = [Entry(f"f{n}", "file", 0o644, size=c.size, sha256=c.sha256) for n, c in enumerate(added)]
    committed.publish("vo-1", [*entries], author="test:")
    copies = WorkingCopies(root / "copies", committed, content, overlay=True)
    copy = await copies.mount("vo-1", owner_uid=isolation_uid(1))
    mounts = (BindMount(copy.path, "/workspace", written=partial(overlay_of, copy)),)
    yield replace(spec_of(copy.path, limits=SMALL), mounts=mounts)
    copies.close()
    content.close()
    database.close()


@pytest.mark.parametrize("how", FILL)
async def test_an_overlay_cannot_be_filled(engine: Engine, overlay: SandboxSpec, notices: list[str], how: str) -> None:
    """Below its limit counts what is committed, and what was written above it."""
    sandbox = await engine.create(overlay, on_notice=notices.append)
    code = f"import os, time\n{FILL[how].replace('100', '30')}\ntime.sleep(600)"
    if how in ("by many files", "by names that are no text"):
        code = code.replace("f{n}", "new{n}")
    await sandbox.exec(["python3", "-c", code], exec_id="fill")
    await ended(sandbox)
    assert notices == [f"the sandbox was ended: {sandbox.exceeded}"]
    await engine.discard(sandbox)


async def test_files_of_an_overlay_that_are_written_anew_count_once(
    engine: Engine, overlay: SandboxSpec, notices: list[str]
) -> None:
    """Their old contents are below, and nobody sees them any more."""
    sandbox = await engine.create(overlay, on_notice=notices.append)
    change = "for n in range(20): open(f'f{n}', 'wb').write(os.urandom(1 << 20))"
    code = f"import os, time\n{change}\ntime.sleep(2); print('on')"
    assert (await run(sandbox, "python3", "-c", code))[1] == "on\n"
    assert notices == []
    await engine.discard(sandbox)


async def test_one_file_is_no_larger_than_the_workspace_may_be(small: Sandbox) -> None:
    """The kernel refuses at once; the program may go on with something else."""
    code = "f = open('f', 'wb')\nfor _ in range(100): f.write(bytes(1 << 20)); f.flush()"
    _, _, err = await run(small, "python3", "-c", code)
    assert "File too large" in err
    assert (await run(small, "sh", "-c", "rm f && echo on"))[1] == "on\n"


async def test_what_is_within_its_limits_is_left_alone(small: Sandbox, notices: list[str]) -> None:
    code = "import time\nfor n in range(20): open(f'f{n}', 'wb').write(bytes(1 << 20))\ntime.sleep(1.5); print('on')"
    assert (await run(small, "python3", "-c", code))[1] == "on\n"
    assert notices == []


async def test_links_are_counted_once_and_never_followed(workspace: Path, root: Path) -> None:
    (root / "outside").write_bytes(bytes(1 << 20))
    (workspace / "a").write_bytes(os.urandom(1 << 20))
    os.link(workspace / "a", workspace / "b")
    (workspace / "c").symlink_to(root / "outside")
    (workspace / "d").symlink_to(root)
    usage = measure(workspace, enough=Limits(), seen=set())
    assert usage.entries == 4
    assert (1 << 20) <= usage.size < (3 << 19)


def test_a_directory_that_cannot_be_looked_into_is_not_taken_for_empty(workspace: Path) -> None:
    (workspace / "hidden").mkdir(mode=0o300)
    if os.geteuid() == 0:
        measure(workspace, enough=Limits(), seen=set())
    else:
        with pytest.raises(UnmeasurableError):
            measure(workspace, enough=Limits(), seen=set())
    (workspace / "hidden").chmod(0o700)


@pytest.mark.parametrize(
    ("given", "memory_mb", "cpus"),
    [
        ((0, 0, 0, 0), Limits.memory_bytes // MEBIBYTE, None),
        ((64, 0, 0, 0), Limits.memory_bytes // MEBIBYTE, None),  # a request is no limit
        ((64, 512, 0, 0), 512, None),
        ((0, 0, 500, 1500), Limits.memory_bytes // MEBIBYTE, 1.5),
    ],
)
def test_limits_follow_the_protocol(given: tuple[int, int, int, int], memory_mb: int, cpus: float | None) -> None:
    memory, memory_max, cpu, cpu_max = given
    found = limits_of(memory_mb=memory, memory_mb_max=memory_max, milli_cpu=cpu, milli_cpu_max=cpu_max)
    assert (found.memory_bytes // MEBIBYTE, found.cpus) == (memory_mb, cpus)


@pytest.mark.skipif(not GROUPS_WORK, reason="this machine lets us make no control groups")
async def test_a_cpu_limit_slows_down_and_groups_do_not_stay(engine: Engine, workspace: Path) -> None:
    """The kernel counts how often it had to hold the job back: a busy machine gives it more than this limit, too."""
    sandbox = await engine.create(spec_of(workspace, limits=Limits(cpus=0.02)))
    directories = sandbox.group.directories
    await run(sandbox, "python3", "-c", "import time; t = time.time()\nwhile time.time() < t + 1: pass")
    stats = [(path / "cpu.stat").read_text() for path in directories if (path / "cpu.stat").exists()]
    throttled = [int(line.split()[1]) for text in stats for line in text.splitlines() if line.startswith("nr_thr")]
    assert any(count > 0 for count in throttled)
    await engine.discard(sandbox)
    assert [path for path in directories if path.exists()] == []


SPIN = """
import os, time
for _ in range(100):
    if os.fork() == 0:
        os.setsid()  # a participant of its own, for a kernel that shares processors by sessions
        while True: pass
print("spinning", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not GROUPS_WORK, reason="this machine lets us make no control groups")
async def test_whatever_a_sandbox_starts_it_takes_turns_as_one(engine: Engine, workspace: Path) -> None:
    """A hundred programs that spin in sessions of their own leave this process its share, as one program would."""
    sandbox = await engine.create(spec_of(workspace))
    process = await sandbox.exec(["python3", "-c", SPIN], exec_id="spin")
    async with asyncio.timeout(DEADLINE_S):
        assert await process.stdout.read(0) == b"spinning\n"
    began, spent = time.monotonic(), time.process_time()
    while time.monotonic() < began + 3:
        pass
    # A hundredth of two processors would be 0.02; other tests beside this one take their shares, too.
    assert (time.process_time() - spent) / 3 > 0.06
    await engine.discard(sandbox)


@pytest.mark.parametrize("groups", [True, False])
async def test_only_without_groups_a_sandbox_is_nice(
    root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, *, groups: bool
) -> None:
    if not groups:
        monkeypatch.setattr(Cgroups, "detect", classmethod(lambda cls: cls("none", ())))
    engine = Engine(root / "nice")
    sandbox = await engine.create(spec_of(workspace))
    nice = os.nice(0)
    code = "import os; print(os.nice(0))"
    expected = nice if groups and GROUPS_WORK else min(19, nice + 10)
    assert (await run(sandbox, "python3", "-c", code))[1] == f"{expected}\n"
    await engine.aclose()


def test_groups_of_a_cloud_that_is_gone_are_removed() -> None:
    found = Cgroups.detect()
    dead = [place.with_name(f"{cgroups.PREFIX}1-cloud1") for place in found.directories]
    for path in dead:
        (path / f"{cgroups.PREFIX}left").mkdir(parents=True)
    cgroups.reap()
    assert [path for path in dead if path.exists()] == []
    assert all(path.exists() for path in found.directories)  # a live one's stay
    found.close()
    assert [path for path in found.directories if path.exists()] == []


@pytest.mark.skipif(not GROUPS_WORK, reason="this machine lets us make no control groups")
@pytest.mark.parametrize("of_its_own", ["--pid --fork --mount-proc", "--pid --fork", "--ipc"])
def test_a_cloud_that_does_not_see_the_processes_of_another_leaves_its_groups(of_its_own: str) -> None:
    """Also as after a kill: the lock is what tells, and a group without one is removed from anywhere."""
    found = Cgroups.detect()
    code = "from workbench.local_cloud.sandboxes.limits import cgroups; print(cgroups.reap())"
    elsewhere = ["unshare", *("" if os.geteuid() == 0 else "-Ur").split(), *of_its_own.split(), sys.executable]

    def reaped() -> str:
        return subprocess.run([*elsewhere, "-c", code], check=True, capture_output=True, text=True).stdout.strip()

    reaped()  # what others may have left
    assert all(path.exists() for path in found.directories)
    while found._locks:
        os.close(found._locks.pop())
    assert reaped() != "0"
    assert [path for path in found.directories if path.exists()] == []
    found.close()


async def test_of_a_disk_that_fills_a_part_stays_free_and_who_has_taken_most_ends(
    engine: Engine, root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far below its own limit a job must not take the last that others need."""
    status = os.statvfs(root)
    free_mb = status.f_bavail * status.f_frsize // MEBIBYTE
    monkeypatch.setenv(RESERVE_VARIABLE, str(free_mb - 300))
    other_workspace = root / "other"
    other_workspace.mkdir()
    if os.geteuid() == 0:
        os.chown(other_workspace, isolation_uid(1), isolation_uid(1))
    notices: list[str] = []
    greedy = await engine.create(spec_of(workspace), on_notice=notices.append)
    modest = await engine.create(spec_of(other_workspace, name="sb-other"), on_notice=notices.append)
    write = (
        "import time\nfor n in range({}): open(f'f{{n}}', 'wb').write(b'x' * (1 << 20))\ntime.sleep({})\nprint('on')"
    )
    await run(modest, "python3", "-c", write.format(20, 0))
    await asyncio.sleep(1)
    waiting = asyncio.create_task(run(modest, "python3", "-c", write.format(5, 5)))
    await greedy.exec(["python3", "-c", write.format(1500, 600)], exec_id="fill")
    await ended(greedy)
    assert greedy.exceeded is not None
    assert "the disk is nearly full, and its files have grown most: by " in str(greedy.exceeded)
    await asyncio.to_thread(remove_tree, workspace)
    assert (await waiting)[1] == "on\n"
    assert notices == [f"the sandbox was ended: {greedy.exceeded}"]

"""A program that is ended takes its whole family along, at whatever moment that is."""

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from tests.support.attempts import may_bind_scores
from tests.support.cutting_off import DEADLINE_S, cut_off_at_many_moments, nothing_is_left
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.images import layouts
from workbench.local_cloud.images.build_sandbox import BuildSandbox


async def test_a_build_step_that_is_cut_off_leaves_nothing_whenever_that_is(tmp_path: Path) -> None:
    """Bubblewrap waits for its own child's set-up: a kill between the two once left the child waiting for ever."""
    scratch = tmp_path / "scratch"

    async def step() -> None:
        scratch.mkdir()
        try:
            sandbox = BuildSandbox(scratch, env={}, workdir="/", writes=(), log=lambda line, fd: None)
            for name, path in layouts.ENVIRONMENTS.items():
                layouts.below(sandbox.image / name, path).mkdir(parents=True)
            await sandbox.run(["/bin/sh", "-c", "yes & sleep 1000"])
        finally:
            shutil.rmtree(scratch)

    descriptors = set(os.listdir("/proc/self/fd"))
    await cut_off_at_many_moments(step, times=60, latest_s=0.03, seed=20)
    await nothing_is_left(str(scratch), descriptors)
    assert os.listdir(tmp_path) == []


async def test_a_program_that_is_killed_by_others_takes_its_family_along(tmp_path: Path) -> None:
    """As by the kernel when memory is short: what it has started does not hold our pipes for ever."""
    descriptors = set(os.listdir("/proc/self/fd"))
    program = await Program.start("/bin/sh", "-c", f"echo begun; sh -c 'sleep 1000; : {tmp_path}'; true")
    async with aclosing(program):
        assert await program.stdout.readline() == b"begun\n"
        psutil.Process(program.pid).kill()
        assert await asyncio.wait_for(program.wait(), DEADLINE_S) == -9
        assert await asyncio.wait_for(program.stdout.read(), DEADLINE_S) == b""
    await nothing_is_left(str(tmp_path), descriptors)


async def test_what_a_program_leaves_running_ends_with_it(tmp_path: Path) -> None:
    """A background process of a step that is over has nobody who would end it."""
    descriptors = set(os.listdir("/proc/self/fd"))
    async with aclosing(await Program.start("/bin/sh", "-c", f"sh -c 'sleep 1000; : {tmp_path}' & exit 3")) as program:
        assert await asyncio.wait_for(program.wait(), DEADLINE_S) == 3
    await nothing_is_left(str(tmp_path), descriptors)


async def test_a_program_that_cannot_be_started_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        await Program.start("/no/such/program")


async def test_a_program_has_the_usual_umask_whatever_the_cloud_s_own_is() -> None:
    """What containers, builds and jobs make is for others to read; only the cloud's own state is not."""
    before = os.umask(0o077)
    try:
        program = await Program.start("/bin/sh", "-c", "umask")
        async with aclosing(program):
            assert await program.stdout.read() == b"0022\n"
            await program.wait()
    finally:
        assert os.umask(before) == 0o077


LOWERED = """
import asyncio, os, subprocess, tempfile
from pathlib import Path
from workbench.local_cloud.images import layouts
from workbench.local_cloud.images.build_sandbox import BuildSandbox

# Whoever has no rights raises the value of this process: it may go down again, since nobody with rights has set it.
raised = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource", "sh", "-c"]
subprocess.run([*raised, f"echo 300 > /proc/{os.getpid()}/oom_score_adj"], check=True)
TRY = "for value in -1000 -1 0 299; do echo $value > /proc/self/oom_score_adj; done; cat /proc/self/oom_score_adj"

def told(line, fd):
    print(fd, line, end="")

async def main():
    with tempfile.TemporaryDirectory() as directory:
        sandbox = BuildSandbox(Path(directory), env={}, workdir="/", writes=(), log=told)
        for name, path in layouts.ENVIRONMENTS.items():
            layouts.below(sandbox.image / name, path).mkdir(parents=True)
        await sandbox.run(["/bin/sh", "-c", TRY])

asyncio.run(main())
"""


@pytest.mark.skipif(not may_bind_scores(), reason="this user cannot say what a program may choose at least")
def test_no_step_is_spared_more_than_the_cloud_when_memory_is_used_up() -> None:
    done = subprocess.run([sys.executable, "-c", LOWERED], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "1 300", done.stdout + done.stderr

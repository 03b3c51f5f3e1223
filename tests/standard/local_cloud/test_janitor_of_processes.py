"""Whatever a cloud has started ends with it, at whatever instant it is killed, and nobody else's process does.

A small process stands for the cloud: it starts its programs and its janitor as the cloud does.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_until
from tests.support.processes import naming
from workbench.local_cloud.base.programs import RUN_MARK, Program
from workbench.local_cloud.base.system_root import system_root
from workbench.local_cloud.process import janitor
from workbench.local_cloud.process.run_mark import mark_of
from workbench.local_cloud.process.state_directory import State

CLOUD = """
import asyncio, sys
from pathlib import Path
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.base.system_root import system_root
from workbench.local_cloud.process.run_mark import start_janitor
from workbench.local_cloud.process.state_directory import State

async def main(root, *argv):
    with State(Path(root)).locked() as run:
        janitor = start_janitor(run)
        print(janitor.pid, flush=True)
        argv = [word for part in argv for word in (system_root() if part == "BWRAP" else [part])]
        while True:
            await Program.start(*argv, env=None if "inherit" in argv else {"PATH": "/usr/bin:/bin"})
            await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""
SLOW = ("sh", "-c", 'sleep 0.3; exec "$@"', "sh")  # a program that is killed while it is being set up


@contextmanager
def cloud(root: Path, *argv: str) -> Iterator[tuple["subprocess.Popen[str]", psutil.Process]]:
    """Run a process that starts `argv` again and again; gives it and its janitor."""
    command = [sys.executable, "-c", CLOUD, str(root), *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, psutil.Process(int(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture
def word() -> Iterator[str]:
    """A word for command lines that tells this test's processes; what is left of them is ended."""
    made = f"wb-janitor-{os.urandom(6).hex()}"
    yield made
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if made in process.cmdline():
                process.kill()


KINDS = {
    "bubblewrap that is still to be set up": (*SLOW, "BWRAP", "--", "sh", "-c", "trap '' TERM; sleep 1000; :"),
    "bubblewrap": ("BWRAP", "--", "sh", "-c", "trap '' TERM; sleep 1000; :"),
    "a program of the host": ("sh", "-c", "trap '' TERM HUP; sleep 1000; :"),
    "one in a session of its own": ("setsid", "-f", "sh", "-c", "sleep 1000; :"),
    "one that inherits the environment": ("sh", "-c", "sleep 1000; :", "inherit"),
}


@pytest.mark.parametrize("argv", KINDS.values(), ids=KINDS.keys())
def test_the_janitor_ends_every_kind_of_program_of_a_killed_cloud(
    tmp_path: Path, word: str, argv: tuple[str, ...]
) -> None:
    with cloud(tmp_path / "state", *argv, word) as (process, _):
        wait_until(lambda: len(naming(word)) > 4, "no programs")
        process.kill()
        process.wait(30)
        wait_until(lambda: naming(word) == [], "a program outlived its cloud")


@pytest.mark.parametrize("argv", KINDS.values(), ids=KINDS.keys())
def test_the_next_start_ends_what_a_cloud_has_left_whose_janitor_was_killed_too(
    tmp_path: Path, word: str, argv: tuple[str, ...]
) -> None:
    state = State(tmp_path / "state")
    with cloud(state.root, *argv, word) as (process, cleaner):
        wait_until(lambda: len(naming(word)) > 4, "no programs")
        cleaner.kill()
        process.kill()
        process.wait(30)
        with state.locked() as run:
            assert naming(word) == []
            assert list((state.root / "run").iterdir()) == [run]


def test_at_no_instant_does_a_killed_cloud_leave_a_program(tmp_path: Path, word: str) -> None:
    """A program that is forked, executed, and set up by bubblewrap has three owners in turn."""
    chance = random.Random(20)
    for _ in range(12):
        with cloud(tmp_path / "state", "BWRAP", "--", "sh", "-c", "sleep 1000; :", word) as (process, _):
            time.sleep(chance.uniform(0, 0.2))
            process.kill()
            process.wait(30)
            wait_until(lambda: naming(word) == [], "a program outlived its cloud")


def test_what_bears_another_mark_or_none_lives_on(tmp_path: Path) -> None:
    """Another cloud's program, one with a longer mark or the mark in its arguments only, and the run's in a copy."""
    (tmp_path / "run" / "abcd").mkdir(parents=True)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    mark, copied = mark_of(tmp_path / "run" / "abcd"), mark_of(tmp_path / "copy" / "abcd")
    assert mark != copied
    value = mark.partition("=")[2]
    others = [
        {RUN_MARK: copied.partition("=")[2]},
        {RUN_MARK: value + "0"},
        {f"X_{RUN_MARK}": value},
        {"OTHER": mark},
        {},
    ]
    spared = [subprocess.Popen(["sh", "-c", "sleep 1000; :", mark], env=env, start_new_session=True) for env in others]
    ours = subprocess.Popen(["sh", "-c", "sleep 1000; :"], env={RUN_MARK: value}, start_new_session=True)
    try:
        janitor.end_processes(mark)
        assert ours.wait(10) == -signal.SIGKILL
        assert [process.poll() for process in spared] == [None] * len(spared)
    finally:
        for process in (*spared, ours):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


async def test_what_runs_inside_does_not_see_the_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_MARK, "a-run")
    program = await Program.start(*system_root(), "--", "env", env={"SEEN": "yes", "PATH": "/usr/bin:/bin"})
    seen = (await program.stdout.read()).decode().splitlines()
    await program.aclose()
    assert "SEEN=yes" in seen
    assert [line for line in seen if RUN_MARK in line] == []

"""A cloud that is killed while it builds leaves no process, and nothing half made after its next start."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import processes_of, wait_until
from tests.support import warm
from tests.support.packages import source_archive
from workbench.local_cloud.process import daemon, maintenance
from workbench.local_cloud.process.state_directory import Running, State

BUILD = """
import sys, modal
app = modal.App.lookup("killed-builds", create_if_missing=True)
image = modal.Image.debian_slim().add_local_file(sys.argv[1], "/wheels/", copy=True)
image.pip_install("endless", find_links="/wheels", extra_options="--no-index").build(app)
"""


def building(state: State) -> list[str]:
    """The command lines of the builds' bubblewraps, whether or not they are set up."""
    return [line for line in processes_of(state) if line.startswith("bwrap ")]


@contextmanager
def build(state: State, archive: Path) -> Iterator[Running]:
    """Start a cloud, and a client that has an image built which takes for ever; the client ends with the block."""
    running, _ = daemon.start(state)
    env = {**os.environ, **running.env()}
    command = warm.words("-c", BUILD, str(archive), env=env)
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as client:
        try:
            yield running
        finally:
            client.kill()


def builds_of(running: Running) -> list[int]:
    """The ids of the bubblewraps that are the cloud's children."""
    return [child.pid for child in psutil.Process(running.pid).children() if child.name() == "bwrap"]


def janitors(running: Running) -> list[psutil.Process]:
    """The cloud's janitor."""
    return [child for child in psutil.Process(running.pid).children() if "janitor.py" in " ".join(child.cmdline())]


def kill(running: Running) -> None:
    """Kill a cloud, and wait until the process has ended."""
    cloud = psutil.Process(running.pid)
    cloud.kill()
    cloud.wait(30)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A package whose installation never ends."""
    return source_archive(tmp_path, "endless", "1.0", "import time; time.sleep(1000)")


def test_at_no_instant_does_a_killed_cloud_leave_a_build(own_state: State, endless: Path) -> None:
    """Bubblewrap dies with its parent only once it is set up, and it can be set up after the cloud's death."""
    leaves_no_build(own_state, endless, random.Random(1207), kills=3)


def leaves_no_build(own_state: State, endless: Path, chance: random.Random, *, kills: int) -> None:
    """Fail when a build outlives a cloud that is killed at any moment, so many times."""
    for _ in range(kills):
        with build(own_state, endless) as running:
            if chance.random() < _AS_IT_BEGINS:
                wait_until(lambda: building(own_state) != [], "the build did not begin")
                time.sleep(chance.choice([0, chance.uniform(0, 0.02)]))
            else:
                time.sleep(chance.uniform(0, 2))
            kill(running)
            wait_until(lambda: processes_of(own_state) == [], "a build outlived its cloud")


_AS_IT_BEGINS = 0.6  # the share of the instants in which bubblewrap is being set up; the others are any


@pytest.mark.parametrize("instant", ["as it is set up", "as it runs"])
def test_the_next_start_ends_a_build_that_a_killed_cloud_and_its_killed_janitor_have_left(
    own_state: State, endless: Path, instant: str
) -> None:
    with build(own_state, endless) as running:
        wait_until(lambda: building(own_state) != [], "the build did not begin")
        stopped = [psutil.Process(pid) for pid in builds_of(running)]
        for process in (*janitors(running), *(stopped if instant == "as it is set up" else [])):
            process.suspend()
        for janitor in janitors(running):
            janitor.kill()
        kill(running)
    daemon.start(own_state)
    assert [process for process in stopped if process.is_running()] == []
    assert building(own_state) == []
    assert daemon.stop(own_state)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_nothing_of_a_build_outlives_its_cloud(own_state: State, endless: Path, end: str) -> None:
    with build(own_state, endless) as running:
        wait_until(lambda: building(own_state) != [], "the build did not begin")
        if end == "kill":
            kill(running)
        else:
            assert daemon.stop(own_state)
        wait_until(lambda: processes_of(own_state) == [], "a build outlived its cloud")
    with own_state.locked():
        assert maintenance.fsck(own_state.root).problems == []
    daemon.start(own_state)
    assert len(list((own_state.root / "images").iterdir())) == 1  # the layer below, which was whole
    assert daemon.stop(own_state)


def test_gc_removes_what_no_image_refers_to_and_fsck_misses_what_one_does(own_state: State, tmp_path: Path) -> None:
    running, _ = daemon.start(own_state)
    (tmp_path / "note").write_text("a note")
    build = (
        "import sys, modal\napp = modal.App.lookup('kept', create_if_missing=True)\n"
        "modal.Image.debian_slim().add_local_file(sys.argv[1], '/data/', copy=True).build(app)\n"
    )
    env = {**os.environ, **running.env()}
    done = warm.run("-c", build, str(tmp_path / "note"), env=env)
    assert done.returncode == 0, done.stderr
    daemon.stop(own_state)
    images = own_state.root / "images"
    (kept,) = images.iterdir()
    (images / "im-nobodys" / "root").mkdir(parents=True)
    (images / "im-nobodys" / "root" / "file").write_text("123")
    with own_state.locked():
        assert maintenance.gc(own_state.root) == (1, 3)
        assert list(images.iterdir()) == [kept]
        assert maintenance.fsck(own_state.root).problems == []
        shutil.rmtree(kept)
        (problem,) = maintenance.fsck(own_state.root).problems
    assert f"image {kept.name}: its files are missing" in problem

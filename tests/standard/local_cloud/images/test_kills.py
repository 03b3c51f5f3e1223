"""A cloud that is killed while it builds leaves no process, and nothing half made after its next start."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import processes_of, wait_until
from tests.support import warm
from tests.support.packages import source_archive
from workbench.local_cloud.process import daemon, maintenance
from workbench.local_cloud.process.state_directory import State

BUILD = """
import sys, modal
app = modal.App.lookup("killed-builds", create_if_missing=True)
image = modal.Image.debian_slim().add_local_file(sys.argv[1], "/wheels/", copy=True)
image.pip_install("endless", find_links="/wheels", extra_options="--no-index").build(app)
"""


def begun(state: State) -> bool:
    """Whether a program of a build runs: a sandbox that is still being set up dies with nobody yet."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            parent = process.parent()
            if process.name() == "uv" and parent is not None and str(state.root) in " ".join(parent.cmdline()):
                return True
    return False


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_nothing_of_a_build_outlives_its_cloud(own_state: State, tmp_path: Path, end: str) -> None:
    running, _ = daemon.start(own_state)
    made = source_archive(tmp_path, "endless", "1.0", "import time; time.sleep(1000)")
    env = {**os.environ, **running.env()}
    with subprocess.Popen([sys.executable, "-c", BUILD, str(made)], env=env, stderr=subprocess.DEVNULL) as client:
        wait_until(lambda: begun(own_state), "the build did not begin")
        if end == "kill":
            cloud = psutil.Process(running.pid)
            cloud.kill()
            cloud.wait(30)
        else:
            assert daemon.stop(own_state)
        wait_until(lambda: processes_of(own_state) == [], "a build outlived its cloud")
        client.kill()
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

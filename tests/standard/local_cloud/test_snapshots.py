"""Snapshots outlive the cloud that took them, and its clean-up."""

import os

from tests.support import warm
from workbench.local_cloud.process import daemon
from workbench.local_cloud.process.maintenance import fsck, gc
from workbench.local_cloud.process.state_directory import State

TAKE = """
import modal
app = modal.App.lookup("snapshot-tests", create_if_missing=True)
sandbox = modal.Sandbox.create(app=app, timeout=60)
sandbox.filesystem.write_text("kept", "/tmp/file")
print(sandbox.snapshot_filesystem().object_id)
sandbox.terminate()
"""
USE = """
import modal, sys
app = modal.App.lookup("snapshot-tests", create_if_missing=True)
sandbox = modal.Sandbox.create("cat", "/tmp/file", app=app, image=modal.Image.from_id(sys.argv[1]), timeout=60)
print(sandbox.stdout.read())
"""


def run(state: State, code: str, *arguments: str) -> str:
    running, _ = daemon.start(state)
    env = {**os.environ, **running.env()}
    done = warm.run("-c", code, *arguments, env=env, timeout_s=100)
    assert done.returncode == 0, done.stderr
    assert daemon.stop(state)
    return done.stdout.strip()


def test_a_snapshot_survives_a_restart_and_the_removal_of_what_nobody_needs(own_state: State) -> None:
    image_id = run(own_state, TAKE)
    assert gc(own_state.root)[0] == 0
    assert fsck(own_state.root).problems == []
    assert run(own_state, USE, image_id) == "kept"

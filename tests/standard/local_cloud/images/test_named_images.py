"""Names of images on this machine: they move with their environment, and what they mean is not pruned."""

import json
import os
import uuid

import modal
import pytest
from modal.exception import NotFoundError

from tests.support import warm
from tests.support.commands import Cli, cli
from workbench.local_cloud.process import daemon, maintenance
from workbench.local_cloud.process.state_directory import Running, State


def test_names_move_with_their_environment_and_keep_it_from_being_deleted(cloud: Running, modal_cli: Cli) -> None:
    old, new = (f"{word}-{uuid.uuid4().hex[:8]}" for word in ("old", "new"))
    modal_cli("environment", "create", old)
    app = modal.App.lookup("named-images-of-environments", create_if_missing=True)
    image = modal.Image.debian_slim().build(app)
    image.publish("mine:v1", environment_name=old)
    modal_cli("environment", "update", old, "--set-name", new)
    listed = json.loads(modal_cli("image", "names", "list", "--env", new, "--json"))
    assert [(each["tag"], each["image_id"]) for each in listed] == [(f"{new}/mine:v1", image.object_id)]
    assert f"{new}/mine:v1" in cli("cloud", "images", "list").stdout
    said = modal_cli("environment", "delete", new, "--yes", check=False)
    assert "the named image 'mine:v1'" in said
    modal_cli("image", "names", "delete", f"{new}/mine:v1", "--yes")
    modal_cli("environment", "delete", new, "--yes")
    modal_cli("environment", "create", new)
    with pytest.raises(NotFoundError, match=f"not found in environment '{new}'"):
        modal.Image.from_name("mine:v1", environment_name=new).env({"A": "1"}).build(app)
    modal_cli("environment", "delete", new, "--yes")


def test_a_named_image_is_used_and_outlives_prune_and_the_cloud(own_state: State) -> None:
    running, _ = daemon.start(own_state)
    code = """
import modal
app = modal.App.lookup("pruned", create_if_missing=True)
for number, name in enumerate(("kept", "kept", "other")):
    image = modal.Image.debian_slim().env({"NUMBER": str(number)}).build(app)
    image.publish(name)
    print(image.object_id)
"""
    done = warm.run("-c", code, env={**os.environ, **running.env()})
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.split()
    modal_cli = Cli(running.env())
    modal_cli("image", "names", "delete", "other:latest", "--yes")
    assert daemon.stop(own_state)
    maintenance.prune_images(own_state.root, before=2e10)
    listed = {image.image_id: image for image in maintenance.images(own_state.root)}
    assert first not in listed
    assert third not in listed
    assert listed[second].used
    assert listed[second].names == ("main/kept:latest",)
    running, _ = daemon.start(own_state)
    code = "import modal; modal.Image.from_name('kept').build(modal.App.lookup('pruned')); print('found')"
    done = warm.run("-c", code, env={**os.environ, **running.env()})
    assert done.stdout == "found\n", done.stderr

"""The unmodified SDK and CLI publish images under names, and find them by these."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest
from modal.exception import InvalidError, NotFoundError

from tests.standard.conformance.conftest import TIMEOUT_S, Run
from tests.support.commands import Cli


@pytest.fixture(scope="module")
def app(cloud: object) -> modal.App:
    return modal.App.lookup("named-images-tests", create_if_missing=True)


@pytest.fixture
def name(modal_cli: Cli) -> Iterator[str]:
    """A name of a test's own, which is forgotten at its end."""
    name = f"named-{uuid.uuid4().hex[:12]}"
    yield name
    for tag in ("latest", "v1"):
        modal_cli("image", "names", "delete", f"{name}:{tag}", "--yes", check=False)


def test_a_published_image_is_found_by_its_name(app: modal.App, run: Run, modal_cli: Cli, name: str) -> None:
    first = modal.Image.debian_slim().env({"WHICH": "first"}).build(app)
    second = modal.Image.debian_slim().env({"WHICH": "second"}).build(app)
    first.publish(name)
    first.publish(f"{name}:v1")
    second.publish(name)
    show = "import os; print(os.environ['WHICH'])"
    assert run(modal.Image.from_name(name), "python", "-c", show) == "second\n"
    assert run(modal.Image.from_name(f"main/{name}:v1"), "python", "-c", show) == "first\n"
    listed = json.loads(modal_cli("image", "names", "list", "--prefix", name, "--json"))
    tags = {each["tag"].rpartition("/")[2]: each["image_id"] for each in listed}
    assert tags == {f"{name}:latest": second.object_id, f"{name}:v1": first.object_id}
    history = json.loads(modal_cli("image", "names", "history", name, "--json"))
    assert [each["image_id"] for each in history] == [second.object_id, first.object_id]


def test_an_image_is_built_on_a_named_one(app: modal.App, run: Run, name: str) -> None:
    modal.Image.debian_slim().env({"BELOW": "yes"}).build(app).publish(name)
    image = modal.Image.from_name(name).env({"ABOVE": "yes"})
    show = "import os; print(os.environ['BELOW'], os.environ['ABOVE'])"
    assert run(image, "python", "-c", show) == "yes yes\n"


def test_a_name_that_was_deleted_is_not_found(app: modal.App, modal_cli: Cli, name: str) -> None:
    image = modal.Image.debian_slim().build(app)
    image.publish(f"{name}:v1")
    assert "Deleted" in modal_cli("image", "names", "delete", f"{name}:v1", "--yes")
    with pytest.raises(NotFoundError):
        modal.Sandbox.create(app=app, image=modal.Image.from_name(f"{name}:v1"))
    assert "No publishing history" in modal_cli("image", "names", "history", f"{name}:v1", check=False)
    modal.Image.from_id(image.object_id).build(app)  # the image itself is still there


def test_snapshots_of_sandboxes_are_published(app: modal.App, run: Run, name: str) -> None:
    sandbox = modal.Sandbox.create(app=app, image=modal.Image.debian_slim(), timeout=TIMEOUT_S)
    try:
        assert sandbox.exec("sh", "-c", "mkdir /tmp/made && echo kept > /tmp/made/word").wait() == 0
        sandbox.snapshot_filesystem().publish(name)
        sandbox.snapshot_directory("/tmp/made").publish(f"{name}:v1")
        sandbox.mount_image("/tmp/again", modal.Image.from_name(f"{name}:v1").build(app))
        again = sandbox.exec("cat", "/tmp/again/word")
        assert again.stdout.read() == "kept\n"
        with pytest.raises(InvalidError, match="a snapshot that only sandboxes can use"):
            modal.Image.from_name(f"{name}:v1").run_commands("true").build(app)
    finally:
        sandbox.terminate()
    assert run(modal.Image.from_name(name), "cat", "/tmp/made/word") == "kept\n"


def test_the_cli_builds_a_dockerfile_and_publishes_it(run: Run, modal_cli: Cli, name: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:3.11-slim\nENV MADE_BY=dockerfile\nCOPY word.txt /word.txt\n")
    (tmp_path / "word.txt").write_text("from the context\n")
    said = modal_cli("image", "build", "--name", f"{name}:v1", str(tmp_path))
    assert f"{name}:v1" in said
    show = "import os; print(os.environ['MADE_BY'], open('/word.txt').read(), end='')"
    assert run(modal.Image.from_name(f"{name}:v1"), "python", "-c", show) == "dockerfile from the context\n"


def test_a_function_publishes_and_finds_images(modal_cli: Cli, name: str, tmp_path: Path) -> None:
    source = tmp_path / "publishes.py"
    source.write_text(f"""
import modal
app = modal.App("publishes-images", image=modal.Image.debian_slim())

@app.function()
def work(image_id):
    modal.Image.from_id(image_id).publish("{name}:v1")

@app.local_entrypoint()
def main():
    made = modal.Image.debian_slim().env({{"A": "1"}}).build(app)
    work.remote(made.object_id)
    print("published", made.object_id)
""")
    said = modal_cli("run", str(source))
    (listed,) = json.loads(modal_cli("image", "names", "list", "--prefix", name, "--json"))
    assert f"published {listed['image_id']}" in said

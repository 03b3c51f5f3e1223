"""Images: what their steps leave, in functions and in sandboxes, and how a step that fails is told."""

from pathlib import Path

import modal
from parity_rows import raised, row

image = modal.Image.debian_slim().add_local_python_source("parity_rows")
app = modal.App("modal-workbench-parity-images", image=image)
base = modal.Image.debian_slim()


def said(image, *command):
    sandbox = modal.Sandbox.create(*command, app=app, image=image, timeout=60)
    sandbox.wait(raise_on_termination=False)
    return sandbox.stdout.read()


@row("`env` sets variables.", source="guide/images", expects="set\n")
def variables():
    return said(base.env({"PARITY": "set"}), "sh", "-c", "echo $PARITY")


@row("`workdir` is where programs start.", source="reference/modal.Image", expects="/tmp\n")
def working_directories():
    return said(base.workdir("/tmp"), "pwd")


@row("`entrypoint` comes before what a sandbox is given.", source="reference/modal.Image", expects="first second\n")
def entrypoints():
    return said(base.entrypoint(["echo", "first"]), "second")


@row("Local files are in the image.", source="guide/images", expects=[True, True], seconds=90)
def local_files():
    mine = Path(__file__)
    found = []
    for copy in (False, True):
        image = base.add_local_file(mine, "/root/there.py", copy=copy)
        found.append(said(image, "cat", "/root/there.py") == mine.read_text())
    return found


@row(
    "`run_commands` run in a shell, as root, and leave what they write.",
    source="guide/images",
    expects="made by 0\n",
    seconds=180,
)
def commands():
    return said(base.run_commands("echo made by $(id -u) > /opt/made"), "cat", "/opt/made")


@row("Dockerfile commands are steps.", source="guide/images", expects="there\n", seconds=180)
def dockerfile_commands():
    return said(base.dockerfile_commands("ENV WORD=there", "RUN echo $WORD > /opt/word"), "cat", "/opt/word")


@row("A Python package is installed.", source="guide/images", expects="True\n", seconds=180)
def python_packages():
    image = base.pip_install("six==1.17.0")
    return said(image, "python3", "-c", "import six; print(six.__version__ == '1.17.0')")


@row(
    "A step that fails raises ImageBuildError or RemoteError at whoever wants the image, with the step's output.",
    source="guide/images",
    expects=[True, True],
    seconds=180,
)
def steps_that_fail():
    found = raised(lambda: said(base.run_commands("echo before the end; exit 3"), "true"))
    return [found.get("raises") in ("ImageBuildError", "RemoteError"), "Image build" in found.get("says", "")]


@row("`python_version` is the one that runs.", source="guide/images", expects="3.12\n", seconds=180)
def python_versions():
    image = modal.Image.debian_slim(python_version="3.12")
    return said(image, "python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")


@row("An image from a registry is the registry's.", source="guide/existing-images", expects=True, seconds=300)
def registry_images():
    return "Alpine" in said(modal.Image.from_registry("alpine:3.20", add_python="3.12"), "cat", "/etc/os-release")


@row("An image is found by its id.", source="reference/modal.Image", expects="set\n")
def images_by_id():
    image = base.env({"PARITY": "set"}).build(app)
    return said(modal.Image.from_id(image.object_id), "sh", "-c", "echo $PARITY")

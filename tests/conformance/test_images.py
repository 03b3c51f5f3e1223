"""The unmodified SDK builds images here, and what runs from them finds what they hold."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest

TIMEOUT_S = 120


def wheel(directory: Path, name: str, version: str, source: str, *, scripts: str = "") -> Path:
    """Write a pure-Python wheel with one module."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    members = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": scripts,
    }
    members[f"{info}/RECORD"] = "".join(f"{member},,\n" for member in (*members, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return path


@pytest.fixture(scope="module")
def app(cloud: object) -> Iterator[modal.App]:
    app = modal.App.lookup("images-tests", create_if_missing=True)
    yield app


def said(app: modal.App, image: modal.Image, *command: str) -> str:
    """What a program in a sandbox of an image prints."""
    sandbox = modal.Sandbox.create(*command, app=app, image=image, timeout=TIMEOUT_S)
    try:
        code = sandbox.wait(raise_on_termination=False) or sandbox.returncode
        out, err = sandbox.stdout.read(), sandbox.stderr.read()
        assert code in (0, None), err
        return out
    finally:
        sandbox.terminate()


def test_a_package_of_the_image_is_imported_in_a_sandbox(app: modal.App, tmp_path: Path) -> None:
    made = wheel(tmp_path, "greeting", "1.2", "WORD = 'hello from the image'\n")
    image = (
        modal.Image.debian_slim()
        .add_local_file(made, "/wheels/", copy=True)
        .uv_pip_install("greeting==1.2", extra_options="--no-index", find_links="/wheels")
    )
    assert said(app, image, "python", "-c", "import greeting; print(greeting.WORD)") == "hello from the image\n"

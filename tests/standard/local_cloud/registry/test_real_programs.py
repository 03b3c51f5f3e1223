"""The same against other people's programs: Debian's docker-registry, filled by skopeo. Skipped where they are not."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.layers import Image, Layer, archive, described, digest, directory, link, member
from tests.support.places import free_port
from tests.support.unpacked import Workspace
from workbench.local_cloud.registry.blobs import BlobStore
from workbench.local_cloud.registry.pulling import PulledImage, pull, this_platform
from workbench.local_cloud.registry.references import ImageReference

LAYERS = [
    Layer.of(archive(directory("etc"), member("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), link("bin", "usr/bin"))),
    Layer.of(archive(member("etc/.wh.passwd"), member("home/ann/x", b"x" * 100_000, owner=(1000, 1000)))),
]
IMAGE = Image(LAYERS, {"User": "ann", "Env": ["A=b"], "Cmd": ["sh"]}, architecture=this_platform().architecture)


@pytest.fixture
def real_registry(tmp_path: Path) -> Iterator[str]:
    """The address of a docker-registry of this test's own."""
    for program in ("docker-registry", "skopeo"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install -y {program}")
    port = free_port()
    storage = f"storage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}"
    (tmp_path / "config.yml").write_text(f"version: 0.1\n{storage}\nhttp: {{addr: 127.0.0.1:{port}}}\n")
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(["docker-registry", "serve", tmp_path / "config.yml"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not _answers(port):
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait(30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def push(image: Image, address: str, place: Path, *options: str) -> None:
    """Have skopeo push an image, from a directory in the layout of OCI."""
    blobs = place / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for blob in (image.manifest(), *image.blobs()):
        (blobs / digest(blob).removeprefix("sha256:")).write_bytes(blob)
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = described(image.manifest(), image.media_type())
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    command = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", *options]
    subprocess.run([*command, f"oci:{place}", f"docker://{address}"], check=True, timeout=60, capture_output=True)


def pulled(name: str, root: Path) -> PulledImage:
    return asyncio.run(
        pull(
            ImageReference.parse(name),
            store=BlobStore(root),
            credentials=None,
            mirrors={},
            platform=this_platform(),
            progress=lambda line: None,
            timeout_s=60,
        )
    )


@pytest.mark.parametrize("options", [(), ("--dest-compress-format", "zstd"), ("--format", "v2s2")])
def test_what_skopeo_has_pushed_is_pulled_and_unpacked(
    real_registry: str, workspace: Workspace, tmp_path: Path, options: tuple[str, ...]
) -> None:
    name = f"{real_registry}/team/users:1"
    push(IMAGE, name, tmp_path / "layout", *options)
    image = pulled(name, tmp_path / "blobs")
    assert (image.config.user, image.config.cmd, dict(image.config.env)) == ("ann", ("sh",), {"A": "b"})
    assert [layer.diff_id for layer in image.layers] == [layer.diff_id for layer in LAYERS]
    for number, layer in enumerate(image.layers):
        found = Layer(layer.path.read_bytes(), layer.media_type, layer.diff_id)
        workspace.unpack(found, name=f"layer{number}", below=[f"layer{below}" for below in range(number)])
    upper = workspace.entries("layer1")
    assert upper["etc/passwd"].kind == "c"
    assert upper["home/ann/x"].owner == (1000, 1000)
    again = pulled(f"{real_registry}/team/users@{image.digest}", tmp_path / "blobs")
    assert again.layers == image.layers

"""Whole systems come through: pulled, unpacked, their layers mounted as an overlay, and their programs run."""

import asyncio
from pathlib import Path

import pytest

from tests.support.layers import Image, Layer, archive, directory, member
from tests.support.registry import registry
from tests.support.systems import busybox_image, image_with_users
from tests.support.unpacked import Workspace
from workbench.local_cloud.registry.blobs import BlobStore
from workbench.local_cloud.registry.pulling import PulledImage, pull, this_platform
from workbench.local_cloud.registry.references import ImageReference


def pulled(image: Image, root: Path) -> PulledImage:
    with registry(authentication="bearer") as far:
        far.push_index("systems/one:1", image, Image([], architecture="none"))
        return asyncio.run(
            pull(
                ImageReference.parse(far.name("systems/one:1")),
                store=BlobStore(root),
                credentials=None,
                mirrors={},
                platform=this_platform(),
                progress=lambda line: None,
                timeout_s=60,
            )
        )


def unpacked(image: PulledImage, workspace: Workspace) -> list[str]:
    """Unpack an image's layers, each above those before it; returns their names, the lowest first."""
    names: list[str] = []
    for number, one in enumerate(image.layers):
        layer = Layer(one.path.read_bytes(), one.media_type, one.diff_id)
        workspace.unpack(layer, name=f"layer{number}", below=names)
        names.append(f"layer{number}")
    return names


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_busybox_runs_from_its_image(workspace: Workspace, tmp_path: Path, compression: str) -> None:
    image = pulled(busybox_image(compression), tmp_path)
    layers = unpacked(image, workspace)
    done = workspace.run(
        layers, "/bin/sh", "-c", "id -u; cat /etc/os-release; ls -ld /root /tmp | cut -c1-10; which vi"
    )
    assert done.splitlines() == ["0", "ID=busybox", 'NAME="BusyBox"', "drwx------", "drwxrwxrwt", "/bin/vi"]


def test_users_of_an_image_own_what_is_theirs_and_its_whiteouts_hide(workspace: Workspace, tmp_path: Path) -> None:
    image = pulled(image_with_users(), tmp_path)
    assert image.config.user == "ann"
    layers = unpacked(image, workspace)
    done = workspace.run(
        layers,
        "/bin/sh",
        "-c",
        "which vi || echo no vi; ls -ld /home /home/ann | cut -d' ' -f1; su ann -c 'id -un; id -G; pwd; touch ~/x && "
        "cat /etc/secret 2>/tmp/e || echo refused'; ls -ln /home/ann/x | tr -s ' ' | cut -d' ' -f3,4",
    )
    assert done.splitlines() == ["no vi", "drwxr-xr-x", "drwx------", "ann", "1000 50", "/", "refused", "1000 1000"]


def test_a_layer_of_mounts_hides_and_replaces_what_is_below(workspace: Workspace, tmp_path: Path) -> None:
    below = Layer.of(archive(member("d/old", b"x"), member("e/old", b"x"), member("f", b"below"), member("g/x", b"x")))
    above = Layer.of(
        archive(
            member("d/.wh..wh..opq"),
            member("d/new", b"x"),
            member("e/new", b"x"),
            directory("f"),
            member("f/new", b"x"),
            member("g", b"file"),
            member("bin/.wh.wget"),
        )
    )
    image = pulled(Image([*busybox_image().layers, below, above]), tmp_path)
    layers = unpacked(image, workspace)
    done = workspace.run(layers, "/bin/sh", "-c", "ls /d; ls /e; ls /f; cat /g; echo; which wget || echo no wget")
    assert done.split("\n") == ["new", "new", "old", "new", "file", "no wget", ""]

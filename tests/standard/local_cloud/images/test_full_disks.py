"""A build that fills the disk ends with that reason, leaves no part of a layer, and the next one works."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.standard.local_cloud.images.conftest import Service, made
from tests.standard.local_cloud.images.test_rooted_builds import built
from tests.support.registry import Registry
from workbench.local_cloud.images import images as images_module
from workbench.local_cloud.images.images import BUILT, FAILED, Images
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.disk_reserve import RESERVE_VARIABLE, lacking

MEBIBYTE = 1024 * 1024
DISK_MB = 48


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, with room for 48 MiB and 2,000 files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = f"size={DISK_MB}m,nr_inodes=2000,mode=0711"
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True, timeout=30)


@pytest.fixture
async def service(
    disk: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    """The state of a cloud on that disk; the parameter is how many MiB of it stay free, empty for the usual share."""
    if reserve := getattr(request, "param", ""):
        monkeypatch.setenv(RESERVE_VARIABLE, reserve)
    (disk / "images").mkdir(mode=0o711)
    database = Database(disk / "cloud.sqlite")
    yield Service(disk / "images", database)
    database.close()


@pytest.fixture
def small(served: Registry) -> str:
    return f"FROM {served.name('small:1')}"


def there(service: Service) -> tuple[set[str], set[str], list[str]]:
    """What lies in the store and among the images: layers, images, and what nobody has finished."""
    store = service.root.parent / "rootfs"
    images = {path.name for path in service.root.iterdir()}
    return {path.name for path in (store / "layers").iterdir()}, images, [*map(str, (store / "live").iterdir())]


FILLING = {
    "one large file": "RUN head -c 200000000 /dev/zero > /big",
    "many files": "RUN mkdir /m; i=0; while [ $i -lt 5000 ]; do echo x > /m/$i || exit 1; i=$((i+1)); done",
    "a copy of a large file": "COPY big /",
    "a cache": "RUN --mount=type=cache,target=/cache head -c 200000000 /dev/zero > /cache/big",
}


@pytest.mark.parametrize(
    ("service", "how"),
    [
        ("", "one large file"),
        ("0", "one large file"),
        ("", "many files"),
        ("0", "a copy of a large file"),
        ("", "a cache"),
    ],
    indirect=["service"],
)
async def test_a_step_that_fills_the_disk_is_told_and_leaves_nothing(
    service: Service, images: Images, small: str, how: str
) -> None:
    service.mounts = {"mo-1": {"/big": bytes(30 * MEBIBYTE)}}
    first = await built(images, small, "RUN echo first > /first")
    assert first.image.state == BUILT, first.image.failure
    before = there(service)
    failed = await built(images, small, "RUN echo first > /first", FILLING[how], context_mount_id="mo-1")
    assert failed.image.state == FAILED
    assert "RESOURCE_EXHAUSTED" in failed.image.failure
    assert "disk" in failed.image.failure
    assert there(service) == before
    async with asyncio.timeout(60):
        while lacking(service.root) is not None:  # noqa: ASYNC110  # the kernel takes the step's mounts down when it has the time
            await asyncio.sleep(0.05)
    later = await built(images, small, "RUN echo first > /first", "RUN cat /first; echo second > /second")
    assert (later.image.state, later.lines[-1]) == (BUILT, "first\n"), later.image.failure
    again = service.open()
    assert again.built(later.image.image_id).config.layers == later.image.config.layers
    await again.aclose()


@pytest.mark.parametrize("service", ["", "0"], indirect=True)
async def test_a_plain_layer_without_room_is_told_and_leaves_nothing(service: Service, images: Images) -> None:
    service.mounts = {"mo-1": {"/big": bytes(30 * MEBIBYTE)}, "mo-2": {"/little": b"x"}}
    before = there(service)
    failed = await made(images, "COPY big /", mount="mo-1")
    assert (failed.state, "RESOURCE_EXHAUSTED" in failed.failure) == (FAILED, True), failed.failure
    assert there(service) == before
    assert (await made(images, "COPY little /", mount="mo-2")).state == BUILT


@pytest.mark.parametrize("soon", [True, False])
async def test_a_build_whose_end_finds_no_room_counts_as_failed(
    service: Service, images: Images, disk: Path, monkeypatch: pytest.MonkeyPatch, soon: bool
) -> None:
    """The end of a build is a row of the database, which may be the very thing that has no room any more."""
    service.mounts = {"mo-1": {"/little": b"x"}}
    monkeypatch.setattr(images_module, "NOTE_S", 10.0 if soon else 0.2)
    note, asked = images._note, [0]

    def without_room(*how: object) -> None:
        asked[0] += 1
        if soon and asked[0] > 2:
            (disk / "filler").unlink(missing_ok=True)
        else:
            _fill(disk / "filler")
        note(*how)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(images, "_note", without_room)
    async with asyncio.timeout(60):
        ended = await made(images, "COPY little /", f"ENV LONG={'x' * 20_000}", mount="mo-1")
    if soon:
        assert (ended.state, asked) == (BUILT, [3])
        return
    assert (ended.state, "RESOURCE_EXHAUSTED" in ended.failure) == (FAILED, True)
    (disk / "filler").unlink()
    monkeypatch.undo()
    assert (await made(images, "COPY little /", f"ENV LONG={'x' * 20_000}", mount="mo-1")).state == BUILT


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (MEBIBYTE, 4096):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass

"""A mount is its files with their names, bytes and modes: what differs in any of them is another mount."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.mounts.blob_routes import BlobRoutes
from workbench.local_cloud.mounts.mount_rpc import MountRpcs
from workbench.local_cloud.sandboxes.router_url import Url
from workbench.local_cloud.server.signed_links import Links
from workbench.local_cloud.store.arrivals import Arrivals
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.database import Database

Files = list[tuple[str, bytes, int]]


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[MountRpcs]:
    database = Database(tmp_path / "cloud.sqlite")
    content = ContentStore(tmp_path / "content")
    yield MountRpcs(
        database,
        content,
        Arrivals(content),
        BlobRoutes(database, content, Links(b"a key of thirty-two bytes, or more", Url()), tmp=tmp_path),
    )
    database.close()


async def made(mounts: MountRpcs, files: Files) -> str:
    for _, data, _ in files:
        digest = hashlib.sha256(data).hexdigest()
        await mounts.MountPutFile(api_pb2.MountPutFileRequest(sha256_hex=digest, data=data), None)
    request = api_pb2.MountGetOrCreateRequest(
        files=[
            api_pb2.MountFile(filename=name, sha256_hex=hashlib.sha256(data).hexdigest(), mode=mode)
            for name, data, mode in files
        ]
    )
    return (await mounts.MountGetOrCreate(request, None)).mount_id


BASE: Files = [("/root/run", b"#!/bin/sh\n", 0o644), ("/root/other", b"x", 0o644)]


@pytest.mark.parametrize(
    "files",
    [
        [("/root/run", b"#!/bin/sh\n", 0o755), BASE[1]],
        [("/root/run", b"#!/bin/sh\n", 0o600), BASE[1]],
        [BASE[0], ("/root/other", b"x", 0o755)],
        [("/root/run", b"x", 0o644), ("/root/other", b"#!/bin/sh\n", 0o644)],
        [("/root/ran", b"#!/bin/sh\n", 0o644), BASE[1]],
        [BASE[0]],
    ],
)
async def test_another_mode_name_or_content_is_another_mount(mounts: MountRpcs, tmp_path: Path, files: Files) -> None:
    first, second = await made(mounts, BASE), await made(mounts, files)
    assert first != second
    assert mounts.checksum(first) != mounts.checksum(second)
    for number, (mount_id, wanted) in enumerate([(first, BASE), (second, files), (first, BASE)]):
        root = tmp_path / str(number)
        mounts.lay_out([mount_id], root)
        for name, data, mode in wanted:
            laid = root / name.lstrip("/")
            assert laid.read_bytes() == data
            assert bool(laid.stat().st_mode & 0o100) is bool(mode & 0o100)


async def test_the_same_files_in_any_order_are_the_same_mount(mounts: MountRpcs) -> None:
    assert len({await made(mounts, list(files)) for files in itertools.permutations(BASE)}) == 1
    assert await made(mounts, [(name, data, 0) for name, data, _ in BASE]) == await made(mounts, BASE)

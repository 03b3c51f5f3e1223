"""Uploads of many small files: what is acknowledged is on the disk, which is waited for once, not once a file."""

import hashlib
import os
from typing import Any

import pytest
from modal_proto import api_pb2

from tests.quick.local_cloud.volumes.conftest import VOLUME, Service
from workbench.local_cloud.base.credentials import Credentials
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.mounts.mount_rpc import MountRpcs
from workbench.local_cloud.sandboxes.router_url import Url
from workbench.local_cloud.server.signed_links import Links
from workbench.local_cloud.store import arrivals as arrivals_module
from workbench.local_cloud.store.arrivals import Arrivals
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.ephemeral import Ephemeral
from workbench.local_cloud.store.names import Objects
from workbench.local_cloud.volumes.block_routes import BLOCK_BYTES, VolumeRoutes
from workbench.local_cloud.volumes.volume_rpc import Mounts, VolumeRpcs

FILES = 200


class Client:
    """Uploads as the SDK does, without the network."""

    def __init__(self, service: Service) -> None:
        self.arrivals = Arrivals(service.content)
        links = Links(Credentials.new().signing_key.encode(), Url())
        routes = VolumeRoutes(service.content, self.arrivals, links)
        objects, ephemeral = Objects(service.database), Ephemeral(service.database)
        self._volumes = VolumeRpcs(
            objects, ephemeral, service.committed, service.content, self.arrivals, routes, mounts_of=lambda _: Mounts()
        )
        self._mounts = MountRpcs(service.database, service.content, self.arrivals, None)  # type: ignore[arg-type]  # no blobs

    async def put(self, files: dict[str, bytes], version: int) -> None:
        await (self._put_first if version == 1 else self._put_second)(files)

    async def _put_first(self, files: dict[str, bytes]) -> None:
        request = api_pb2.VolumePutFilesRequest(volume_id=VOLUME)
        for name, data in files.items():
            sha256 = hashlib.sha256(data).hexdigest()
            request.files.add(filename=name, sha256_hex=sha256)
            asked = api_pb2.MountPutFileRequest(sha256_hex=sha256, data=data)
            assert (await self._mounts.MountPutFile(asked, None)).exists
        await self._volumes.VolumePutFiles(request, None)

    async def _put_second(self, files: dict[str, bytes]) -> None:
        request = api_pb2.VolumePutFiles2Request(volume_id=VOLUME)
        blocks: dict[bytes, bytes] = {}
        for name, data in files.items():
            parts = [data[at : at + BLOCK_BYTES].rstrip(b"\0") for at in range(0, len(data), BLOCK_BYTES)]
            hashes = [hashlib.sha256(part).digest() for part in parts]
            made = [api_pb2.VolumePutFiles2Request.Block(contents_sha256=digest) for digest in hashes]
            blocks |= dict(zip(hashes, parts, strict=True))
            request.files.add(path=name, size=len(data), blocks=made)
        for missing in (await self._volumes.VolumePutFiles2(request, None)).missing_blocks:
            digest = request.files[missing.file_index].blocks[missing.block_index].contents_sha256
            await self.arrivals.add(digest.hex(), blocks[digest])
        assert not (await self._volumes.VolumePutFiles2(request, None)).missing_blocks


@pytest.fixture
def overlay() -> bool:
    return False  # nothing is mounted


@pytest.mark.parametrize("version", [1, 2])
async def test_many_small_files_wait_for_the_disk_together(
    service: Service, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    waits: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (waits.append(descriptor), fsync(descriptor)))
    files = {f"d{number % 7}/{number}": b"%d" % number for number in range(FILES)}
    await Client(service).put(files, version)
    assert len(waits) < 10
    store = ContentStore(service.root / "content")  # another process, after a kill
    for name, data in files.items():
        entry = service.committed.entry(VOLUME, name)
        assert entry is not None
        assert store.read(entry.sha256) == data
    store.close()


@pytest.mark.parametrize("version", [1, 2])
async def test_files_of_every_size_arrive_as_they_are(service: Service, version: int) -> None:
    """Blocks come without the zeros at their ends, and equal ones once."""
    files: dict[str, bytes] = {
        "empty": b"",
        "zeros": bytes(10_000),
        "ends in zeros": b"1" + bytes(99),
        "the same": b"1",
        "the same again": b"1",
        "large": os.urandom(70_000),
        "blocks": os.urandom(BLOCK_BYTES) + b"tail",
        "blocks and zeros": b"2" * BLOCK_BYTES + bytes(100) + b"3" + bytes(50),
    }
    await Client(service).put(files, version)
    assert {name: service.read(name) for name in files} == files


async def test_an_upload_that_is_larger_than_memory_arrives(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals_module, "_MAX_BYTES", 5_000)
    client = Client(service)
    files = {str(number): b"%d" % number * 300 for number in range(FILES)}
    await client.put(files, 2)
    assert client.arrivals._bytes <= 5_000
    assert {name: service.read(name) for name in files} == files


async def test_what_a_killed_cloud_had_not_acknowledged_is_asked_for_again(service: Service) -> None:
    """What has arrived is in memory: the next cloud calls it missing, and refers to nothing that it does not have."""
    data = b"only in memory"
    sha256 = hashlib.sha256(data).hexdigest()
    await Client(service).arrivals.add(sha256, data)
    client: Any = Client(service)
    request = api_pb2.VolumePutFilesRequest(volume_id=VOLUME)
    request.files.add(filename="f", sha256_hex=sha256)
    with pytest.raises(CloudError, match="was not uploaded: upload it first"):
        await client._volumes.VolumePutFiles(request, None)
    assert service.paths() == []
    await client.put({"f": data}, 2)
    assert service.read("f") == data


async def test_what_is_never_referred_to_is_not_kept(service: Service) -> None:
    client = Client(service)
    await client.arrivals.add(hashlib.sha256(b"x").hexdigest(), b"x")
    assert client.arrivals.has(hashlib.sha256(b"x").hexdigest())
    assert not service.content.has(hashlib.sha256(b"x").hexdigest())

"""A blob is whole under its digest, or not there; who wants one that is on its way waits, and downloads if it fails."""

import asyncio
from pathlib import Path

import pytest

from tests.support.layers import digest
from workbench.local_cloud.registry.blobs import BlobStore, PartialBlob
from workbench.local_cloud.registry.errors import RegistryError, damaged

BLOB = b"content" * 1000
NAME = digest(BLOB)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


async def download(partial: PartialBlob) -> None:
    partial.write(BLOB)


async def test_a_blob_is_kept_under_its_digest(store: BlobStore) -> None:
    path = await store.obtain(NAME, len(BLOB), download)
    assert path.read_bytes() == BLOB
    assert list(store.kept()) == [(NAME, len(BLOB))]
    store.remove(NAME)
    store.remove(NAME)
    assert not store.has(NAME, len(BLOB))


async def test_who_waits_for_a_download_that_fails_downloads_itself(store: BlobStore) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def failing(partial: PartialBlob) -> None:
        partial.write(BLOB[:10])
        begun.set()
        await go.wait()
        raise damaged("It broke.")

    first = asyncio.create_task(store.obtain(NAME, len(BLOB), failing))
    await begun.wait()
    others = [asyncio.create_task(store.obtain(NAME, len(BLOB), download)) for _ in range(3)]
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(RegistryError, match="It broke"):
        await first
    assert [path.read_bytes() for path in await asyncio.gather(*others)] == [BLOB] * 3


async def test_who_waits_for_a_download_that_is_cancelled_downloads_itself(store: BlobStore) -> None:
    begun = asyncio.Event()

    async def endless(partial: PartialBlob) -> None:
        begun.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(store.obtain(NAME, len(BLOB), endless))
    await begun.wait()
    second = asyncio.create_task(store.obtain(NAME, len(BLOB), download))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).read_bytes() == BLOB


async def test_one_download_is_shared(store: BlobStore) -> None:
    downloads: list[str] = []

    async def counted(partial: PartialBlob) -> None:
        downloads.append(partial.digest)
        await asyncio.sleep(0)
        partial.write(BLOB)

    paths = await asyncio.gather(*(store.obtain(NAME, len(BLOB), counted) for _ in range(20)))
    assert set(paths) == {store.path(NAME)}
    assert downloads == [NAME]


@pytest.mark.parametrize("content", [b"", BLOB[:-1], BLOB + b"x", b"x" * len(BLOB)])
async def test_other_content_is_not_kept(store: BlobStore, tmp_path: Path, content: bytes) -> None:
    async def other(partial: PartialBlob) -> None:
        partial.write(content)

    with pytest.raises(RegistryError):
        await store.obtain(NAME, len(BLOB), other)
    assert list(store.kept()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_wrong_size_does_not_replace_what_is_kept(store: BlobStore) -> None:
    """The size comes from a manifest, which may be a hostile one."""
    path = await store.obtain(NAME, len(BLOB), download)
    with pytest.raises(RegistryError):
        await store.obtain(NAME, len(BLOB) - 1, download)
    assert path.read_bytes() == BLOB


@pytest.mark.parametrize(
    "name", ["", "x", "sha256:", "sha256:../../etc/passwd", NAME.upper(), NAME + "/..", NAME + "\n"]
)
def test_only_a_digest_is_a_place(store: BlobStore, name: str) -> None:
    with pytest.raises(RegistryError):
        store.path(name)


async def test_a_download_that_begins_again_forgets_what_came(store: BlobStore) -> None:
    async def twice(partial: PartialBlob) -> None:
        partial.write(b"y" * 5000)
        partial.restart()
        partial.write(BLOB)

    assert (await store.obtain(NAME, len(BLOB), twice)).read_bytes() == BLOB

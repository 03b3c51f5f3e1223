"""Pulls an image: its manifest, its configuration and its layers, each verified before anything is made of it.

The layers come into a BlobStore, still compressed. What is there already is not downloaded again.
"""

import asyncio
import platform as machine
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import stamina

from workbench.local_cloud.base.errors import Reason
from workbench.local_cloud.registry.addresses import address_of
from workbench.local_cloud.registry.blobs import BlobStore, PartialBlob
from workbench.local_cloud.registry.connection import Connection, connected, read_body
from workbench.local_cloud.registry.credentials import Credentials
from workbench.local_cloud.registry.digests import digest_of
from workbench.local_cloud.registry.errors import PassingError, RegistryError, damaged, printable
from workbench.local_cloud.registry.image_config import ImageConfig, read_config
from workbench.local_cloud.registry.manifests import (
    ACCEPTED,
    MOST_MANIFEST_BYTES,
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose,
    fits,
    other_platform,
    read_manifest,
)
from workbench.local_cloud.registry.references import ImageReference

MOST_IMAGE_BYTES = 64 << 30  # of all layers of one image, compressed
_ATTEMPTS = 5  # of each request
_MOST_WAIT_S = 60.0  # that a registry may ask for between two of them
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
_AT_ONCE = 3  # layers, as Docker does it
_CHUNK_BYTES = 1 << 20
_MEGABYTE = 10**6
_TELL_EVERY_BYTES = 100 * _MEGABYTE
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}

Progress = Callable[[str], None]  # takes a line for the build's log


@dataclass(frozen=True)
class Layer:
    """One layer of an image, as it lies on the disk."""

    digest: str  # of the compressed blob
    diff_id: str  # of the archive in it
    media_type: str
    size: int  # of the blob, in bytes
    path: Path


@dataclass(frozen=True)
class PulledImage:
    """An image whose every part is on this machine and verified."""

    reference: ImageReference
    digest: str  # of the manifest for this machine's platform
    config: ImageConfig
    layers: tuple[Layer, ...]  # lowest first


def this_platform() -> Platform:
    """Linux on this machine's processor, by Go's names."""
    name = machine.machine()
    return Platform("linux", _ARCHITECTURES.get(name, name))


async def pull(
    reference: ImageReference,
    *,
    store: BlobStore,
    credentials: Credentials | None,
    mirrors: Mapping[str, str],
    platform: Platform,
    progress: Progress,
    timeout_s: float,
) -> PulledImage:
    """Bring an image into the store, and return what it is made of.

    Raises RegistryError, whose reason is NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION (another processor),
    UNAVAILABLE (the registry is away), DATA_LOSS (wrong content), DEADLINE_EXCEEDED, INVALID_ARGUMENT or
    RESOURCE_EXHAUSTED (the disk is full); and what the store's `require_room` raises. The store has whole blobs only.
    """
    address = address_of(reference, mirrors)
    progress(f"Pulling {reference} from {address.host}.")
    try:
        async with asyncio.timeout(timeout_s), connected(address, credentials) as connection:
            return await _Pull(reference, store, platform, progress, connection).image()
    except TimeoutError:
        raise RegistryError(
            Reason.DEADLINE_EXCEEDED, f"{reference} could not be pulled from {address.host} within {timeout_s:.0f} s."
        ) from None
    except RegistryError as error:
        raise RegistryError(error.reason, _with_name(error.message, reference)) from None


class _Pull:
    """One image on its way."""

    def __init__(
        self,
        reference: ImageReference,
        store: BlobStore,
        platform: Platform,
        progress: Progress,
        connection: Connection,
    ) -> None:
        self._reference = reference
        self._name = str(reference)
        self._store = store
        self._platform = platform
        self._progress = progress
        self._connection = connection

    async def image(self) -> PulledImage:
        digest, manifest = await self._manifest()
        total = sum(layer.size for layer in manifest.layers)
        if total > MOST_IMAGE_BYTES:
            raise RegistryError(
                Reason.RESOURCE_EXHAUSTED, f"The image has {total:,} bytes; at most {MOST_IMAGE_BYTES:,} are taken."
            )
        config = await self._config(manifest.config)
        if len(config.diff_ids) != len(manifest.layers):
            raise damaged(
                f"The manifest has {len(manifest.layers)} layers, and the configuration {len(config.diff_ids)}."
            )
        offered = Platform(config.os, config.architecture, config.variant)
        if config.architecture and not fits(offered, self._platform):
            raise other_platform(self._name, self._platform, [offered])
        paths = await self._layers(manifest.layers)
        layers = tuple(
            Layer(layer.digest, diff_id, layer.media_type, layer.size, path)
            for layer, diff_id, path in zip(manifest.layers, config.diff_ids, paths, strict=True)
        )
        return PulledImage(self._reference, digest, config, layers)

    async def _manifest(self) -> tuple[str, Manifest]:
        digest, found = await self._document(self._reference.version)
        if isinstance(found, Index):
            chosen = choose(found, self._platform, self._name)
            digest, found = await self._document(chosen.digest)
        if isinstance(found, Index):
            raise damaged("The index leads to another index, which is not followed.")
        return digest, found

    async def _document(self, version: str) -> tuple[str, Manifest | Index]:
        """Return a manifest or an index with its digest, verified where it was asked for by one."""
        headers = {"Accept": ", ".join(ACCEPTED)}
        async for attempt in _attempts():
            with attempt:
                async with self._connection.get(f"manifests/{version}", headers) as response:
                    body = await read_body(response, MOST_MANIFEST_BYTES, "The manifest")
                    kind = response.headers.get("content-type", "")
                    said = response.headers.get("docker-content-digest", "")
        digest = digest_of(body)
        wanted = version if ":" in version else said
        if wanted.startswith("sha256:") and wanted != digest:
            raise damaged(f"The manifest's digest is {digest}; it should be {printable(wanted)}. It was not used.")
        return digest, read_manifest(body, kind, self._name)

    async def _config(self, wanted: Descriptor) -> ImageConfig:
        path = await self._store.obtain(wanted.digest, wanted.size, self._download)
        data = await asyncio.to_thread(path.read_bytes)
        if digest_of(data) != wanted.digest:  # it was right when it came
            self._store.remove(wanted.digest)
            raise damaged("The kept configuration was damaged on the disk, and is removed: pull the image again.")
        return read_config(data)

    async def _layers(self, wanted: tuple[Descriptor, ...]) -> list[Path]:
        """Return the layers' files, a few of them downloaded at once."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int, layer: Descriptor) -> Path:
            async with places:
                what = f"Layer {number} of {len(wanted)}, {layer.size / _MEGABYTE:.1f} MB"
                if self._store.has(layer.digest, layer.size):
                    self._progress(f"{what}: here already.")
                    return self._store.path(layer.digest)
                path = await self._store.obtain(layer.digest, layer.size, self._download)
                self._progress(f"{what}: pulled.")
                return path

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(number, layer)) for number, layer in enumerate(wanted, 1)]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _download(self, partial: PartialBlob) -> None:
        """Fill a blob; after a cut, from where it was cut on."""
        async for attempt in _attempts():
            with attempt:
                headers = {"Range": f"bytes={partial.received}-"} if partial.received else {}
                async with self._connection.get(f"blobs/{partial.digest}", headers) as response:
                    _begin(partial, response)
                    await self._take(partial, response)
                if partial.received < partial.size:
                    raise PassingError(
                        Reason.DATA_LOSS,
                        f"The blob {partial.digest} ended after {partial.received:,} of its {partial.size:,} bytes.",
                    )

    async def _take(self, partial: PartialBlob, response: httpx.Response) -> None:
        """Write what comes; of a body that is cut off, all that has come."""
        told = partial.received
        waiting = bytearray()
        try:
            async for chunk in response.aiter_raw():
                waiting += chunk
                if len(waiting) >= _CHUNK_BYTES:
                    data, waiting = waiting, bytearray()
                    await asyncio.to_thread(partial.write, data)
                if partial.received - told >= _TELL_EVERY_BYTES:
                    told = partial.received
                    self._progress(f"{told // _MEGABYTE} of {partial.size // _MEGABYTE} MB of a layer pulled.")
        finally:
            partial.write(waiting)


def _with_name(message: str, reference: ImageReference) -> str:
    return message if str(reference) in message else f"{reference} was not pulled. {message}"


def _begin(partial: PartialBlob, response: httpx.Response) -> None:
    """Look at the head of a blob's answer: does it begin where we are, and is it as long as it should be?"""
    if response.status_code == 206:
        unit, _, span = response.headers.get("content-range", "").partition(" ")
        if unit != "bytes" or not partial.received or span.partition("-")[0] != str(partial.received):
            raise damaged(f"The registry answered with another part of the blob {partial.digest} than was asked for.")
        return
    partial.restart()  # it does not know ranges, or was not asked for one
    length = response.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) != partial.size:
        raise damaged(f"The blob {partial.digest} has {length[:20]} bytes; the image says {partial.size:,}.")


def _attempts() -> stamina._core._RetryContextIterator:
    return stamina.retry_context(
        on=_again,
        attempts=_ATTEMPTS,
        timeout=None,  # the pull has its own
        wait_initial=_FIRST_WAIT_S,
        wait_max=_LONGEST_WAIT_S,
        wait_jitter=_FIRST_WAIT_S,
    )


def _again(error: Exception) -> bool | float:
    """Whether to try again after an error, or in how many seconds."""
    if not isinstance(error, PassingError):
        return False
    if error.wait_s is None:
        return True
    return max(error.wait_s, _FIRST_WAIT_S) if error.wait_s <= _MOST_WAIT_S else False

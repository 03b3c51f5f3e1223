"""Manifests and indexes of Docker and OCI: which contents an image is made of, and which images there are to choose.

Reads bytes whose digest was verified, or that came under a tag. Does no I/O.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from workbench.local_cloud.base.errors import Reason
from workbench.local_cloud.registry.digests import check_digest
from workbench.local_cloud.registry.errors import RegistryError, damaged, printable, refused

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
ACCEPTED = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
_INDEXES = (OCI_INDEX, DOCKER_LIST)
_LAYERS = (
    OCI_LAYER,
    f"{OCI_LAYER}+gzip",
    f"{OCI_LAYER}+zstd",
    DOCKER_LAYER,
    f"{DOCKER_LAYER}.gzip",
    f"{DOCKER_LAYER}.zstd",
)
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
MOST_LAYERS = 400  # Docker itself makes at most 127; an overlay takes 500
MOST_LAYER_BYTES = 16 << 30
MOST_CONFIG_BYTES = 8 << 20
MOST_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True)
class Descriptor:
    """A content that an image needs."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """One image for one processor."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Platform:
    """An operating system and a processor, by Go's names: linux and amd64."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True)
class Index:
    """Images of one name for several platforms."""

    images: tuple[tuple[Platform, Descriptor], ...]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)


class _Descriptor(_Read):
    media_type: str = Field(max_length=255)
    digest: str = Field(max_length=255)
    size: int = Field(ge=0, le=1 << 60)

    def checked(self) -> Descriptor:
        return Descriptor(self.media_type, check_digest(self.digest), self.size)


_OptionalText = Annotated[str, BeforeValidator(lambda value: value or ""), Field(max_length=255)]


class _Platform(_Read):
    os: _OptionalText = ""
    architecture: _OptionalText = ""
    variant: _OptionalText = ""


class _Listed(_Descriptor):
    platform: _Platform | None = None


class _Document(_Read):
    """Both kinds in one, since a document that is both at once must be refused: readers would differ about it."""

    schema_version: int
    media_type: _OptionalText = ""
    artifact_type: _OptionalText = ""
    config: _Descriptor | None = None
    layers: tuple[_Descriptor, ...] | None = Field(default=None, max_length=MOST_LAYERS)
    manifests: tuple[_Listed, ...] | None = Field(default=None, max_length=1000)
    fs_layers: tuple[object, ...] | None = None


def read_manifest(data: bytes, content_type: str, name: str) -> Manifest | Index:
    """Read what a registry has answered for `name`. Raises RegistryError for what is no image that can be used."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith(_SCHEMA_1):
        raise _schema_1(name)
    try:
        read = _Document.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part)[:50] for part in first["loc"][:6])
        raise damaged(f"The manifest of {name} is no valid one: {place or 'it'} ({first['type']}).") from None
    if read.schema_version == 1 or read.fs_layers is not None:
        raise _schema_1(name)
    said = read.media_type or kind
    if said not in ACCEPTED:
        said = OCI_INDEX if read.manifests is not None else OCI_MANIFEST  # some registries answer application/json
    elif kind in ACCEPTED and kind != said:
        raise damaged(f"The manifest of {name} says that it is {said}; the registry says {kind}.")
    if (said in _INDEXES) != (read.manifests is not None) or (read.manifests is not None) == (read.layers is not None):
        raise damaged(f"The manifest of {name} is not of the kind that it says it is ({said}).")
    return _index(read) if read.manifests is not None else _manifest(read, name)


def choose(index: Index, wanted: Platform, name: str) -> Descriptor:
    """Return the index's image for a platform. Raises RegistryError FAILED_PRECONDITION that names those that exist."""
    fitting = [entry for entry in index.images if fits(entry[0], wanted)]
    if not fitting:
        raise other_platform(name, wanted, (platform for platform, _ in index.images))
    exact = [entry for entry in fitting if entry[0].variant == wanted.variant]
    return (exact or fitting)[0][1]


def fits(offered: Platform, wanted: Platform) -> bool:
    """Whether an image of a platform runs on another. `arm64` and `arm64/v8` are the same."""
    same = (offered.os, offered.architecture) == (wanted.os, wanted.architecture)
    return same and (not offered.variant or not wanted.variant or offered.variant == wanted.variant)


def other_platform(name: str, wanted: Platform, offered: Iterable[Platform]) -> RegistryError:
    """Build the error for an image that does not exist for this processor."""
    names = sorted({printable(str(platform)) for platform in offered if platform.os not in ("", "unknown")})
    there = ", ".join(names[:30]) or "none that is named"
    return RegistryError(
        Reason.FAILED_PRECONDITION,
        f"{name} does not exist for {wanted}, which this machine needs. It exists for: {there}. "
        "Choose an image for this processor.",
    )


def _index(read: _Document) -> Index:
    assert read.manifests is not None
    platforms = [
        (Platform(*(one.platform.model_dump().values())) if one.platform else Platform("", ""), one.checked())
        for one in read.manifests
        if one.media_type in ACCEPTED
    ]
    return Index(tuple(platforms))


def _manifest(read: _Document, name: str) -> Manifest:
    if read.config is None or read.config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        kind = read.artifact_type or (read.config.media_type if read.config else "nothing")
        raise refused(f"{name} is no container image: the registry has something of the kind {kind!r} there.")
    assert read.layers is not None
    for layer in read.layers:
        if layer.media_type not in _LAYERS:
            raise refused(
                f"{name} has a layer of the kind {layer.media_type!r}, which cannot be used: layers are tar archives, "
                "plain or compressed with gzip or zstd. Layers that lie elsewhere ('foreign') or are encrypted are not."
            )
        if layer.size > MOST_LAYER_BYTES:
            raise refused(f"{name} has a layer of {layer.size:,} bytes; at most {MOST_LAYER_BYTES:,} are taken.")
    if read.config.size > MOST_CONFIG_BYTES:
        raise refused(f"{name} has a configuration of {read.config.size:,} bytes; at most {MOST_CONFIG_BYTES:,}.")
    return Manifest(read.config.checked(), tuple(layer.checked() for layer in read.layers))


def _schema_1(name: str) -> RegistryError:
    return refused(
        f"{name} has a manifest of schema 1, Docker's format before 2017, whose content cannot be verified. "
        "Push it again with a present version of Docker, or choose a newer tag."
    )

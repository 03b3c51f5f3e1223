"""Layers and images for tests: archives written member by member, so that hostile ones can be made as well."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


def member(
    name: str,
    content: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
    link: str = "",
    mtime: float = 1_700_000_000,
    xattrs: Mapping[str, str] | None = None,
    device: tuple[int, int] = (0, 0),
) -> tuple[tarfile.TarInfo, bytes]:
    """Describe one member of an archive."""
    item = tarfile.TarInfo(name)
    item.type, item.mode, item.linkname, item.mtime, item.size = kind, mode, link, mtime, len(content)
    item.uid, item.gid = owner
    item.devmajor, item.devminor = device
    item.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
    return item, content


def directory(name: str, mode: int = 0o755, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Describe a directory."""
    return member(name, kind=tarfile.DIRTYPE, mode=mode, **more)


def link(name: str, target: str, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Describe a symbolic link."""
    return member(name, kind=tarfile.SYMTYPE, link=target, **more)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """Describe a hard link."""
    return member(name, kind=tarfile.LNKTYPE, link=target)


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Write a tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogateescape") as tar:
        for item, content in members:
            tar.addfile(item, io.BytesIO(content))
    return file.getvalue()


def digest(data: bytes) -> str:
    """The digest of a content."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True)
class Layer:
    """A layer as a registry has it: its blob, its kind, and the digest of the archive in it."""

    blob: bytes
    media_type: str
    diff_id: str

    @classmethod
    def of(cls, tar: bytes, compression: str = "gzip", *, docker: bool = False) -> "Layer":
        """Compress an archive with gzip, zstd or not at all ('')."""
        blob = {"gzip": gzip.compress, "zstd": zstandard.compress, "": bytes}[compression](tar)
        if docker:
            kind = f"{DOCKER}.image.rootfs.diff.tar"
            return cls(blob, f"{kind}.{compression}" if compression else kind, digest(tar))
        kind = f"{OCI}.layer.v1.tar"
        return cls(blob, f"{kind}+{compression}" if compression else kind, digest(tar))


@dataclass(frozen=True)
class Image:
    """An image of some layers; `config` is what Docker calls so in an image's configuration."""

    layers: Sequence[Layer]
    config: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = "amd64"
    variant: str = ""
    docker: bool = False

    def configuration(self) -> bytes:
        """The configuration's blob."""
        document = {
            "os": "linux",
            "architecture": self.architecture,
            **({"variant": self.variant} if self.variant else {}),
            "config": dict(self.config),
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
            "history": [{"created_by": f"step {number}"} for number, _ in enumerate(self.layers)],
        }
        return json.dumps(document).encode()

    def media_type(self) -> str:
        """The kind of the manifest."""
        return f"{DOCKER}.distribution.manifest.v2+json" if self.docker else f"{OCI}.manifest.v1+json"

    def manifest(self) -> bytes:
        """The manifest."""
        config = self.configuration()
        kind = f"{DOCKER}.container.image.v1+json" if self.docker else f"{OCI}.config.v1+json"
        document = {
            "schemaVersion": 2,
            "mediaType": self.media_type(),
            "config": described(config, kind),
            "layers": [described(layer.blob, layer.media_type) for layer in self.layers],
        }
        return json.dumps(document).encode()

    def blobs(self) -> Iterable[bytes]:
        """Everything but the manifest."""
        return (self.configuration(), *(layer.blob for layer in self.layers))


def described(blob: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """Refer to a content as manifests do."""
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob), **more}


def index(images: Sequence[Image], *, docker: bool = False) -> tuple[bytes, str]:
    """An index of images for several platforms, with its kind."""
    kind = f"{DOCKER}.distribution.manifest.list.v2+json" if docker else f"{OCI}.index.v1+json"
    listed = []
    for image in images:
        platform = {"os": "linux", "architecture": image.architecture}
        if image.variant:
            platform["variant"] = image.variant
        listed.append(described(image.manifest(), image.media_type(), platform=platform))
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": listed}).encode(), kind

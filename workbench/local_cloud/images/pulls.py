"""Base images of registries: pulls one, and unpacks its layers into the store of layers, each once."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modal_proto import api_pb2

from workbench.local_cloud.images.dockerfile import RefusedError
from workbench.local_cloud.registry.blobs import BlobStore
from workbench.local_cloud.registry.image_config import ImageConfig as PulledConfig
from workbench.local_cloud.registry.pulling import PulledImage, pull, this_platform
from workbench.local_cloud.registry.references import ImageReference
from workbench.local_cloud.registry.secrets import AuthType, credentials_of
from workbench.local_cloud.rootfs.layers import Layers, Root

MIRRORS_VARIABLE = "WORKBENCH_REGISTRY_MIRRORS"
PULL_S = 15 * 60.0
_MIRROR = re.compile(r"[^\s=,]+=[^\s=,]+")


@dataclass(frozen=True)
class RegistryAccess:
    """How a registry is asked: the protocol's kind of authentication, and the values of the secret for it."""

    kind: int = 0
    values: Mapping[str, str] | None = None

    @classmethod
    def of(cls, image: api_pb2.Image, secrets: Any) -> "RegistryAccess":
        """Return what an image's definition says; `secrets` resolves secrets' ids. Raises CloudError."""
        asked = image.image_registry_config
        return cls(asked.registry_auth_type, secrets([asked.secret_id]) if asked.secret_id else {})


def mirrors() -> dict[str, str]:
    """Return the mirrors of the setting, by the registry that each stands for. Raises RefusedError."""
    found = {}
    for part in filter(None, os.environ.get(MIRRORS_VARIABLE, "").split(",")):
        if not _MIRROR.fullmatch(part.strip()):
            raise RefusedError(
                f"{MIRRORS_VARIABLE} must be REGISTRY=HOST, several with commas between them, such as "
                "docker.io=localhost:5000."
            )
        registry, _, host = part.strip().partition("=")
        found[registry] = host
    return found


class Puller:
    """Pulls images into a store of blobs, and unpacks them into the store of layers."""

    def __init__(self, blobs: BlobStore, layers: Layers) -> None:
        self._blobs = blobs
        self._layers = layers

    async def base(self, name: str, access: RegistryAccess, log: Any) -> tuple[tuple[str, ...], PulledConfig]:
        """Return the layers of an image, the topmost first, and its config.

        `log` gets lines with their file descriptor. Raises CloudError, LayerError.
        """
        reference = ImageReference.parse(name)
        pulled = await pull(
            reference,
            store=self._blobs,
            credentials=await credentials_of(AuthType(access.kind), access.values or {}, reference),
            mirrors=mirrors(),
            platform=this_platform(),
            progress=lambda line: log(f"{line}\n", 1),
            timeout_s=PULL_S,
        )
        log(f"The base is {reference} of a registry: {pulled.digest}, {len(pulled.layers)} layers.\n", 1)
        return await self._unpacked(pulled), pulled.config

    async def _unpacked(self, pulled: PulledImage) -> tuple[str, ...]:
        below: tuple[str, ...] = ()
        for layer in pulled.layers:
            key = hashlib.sha256(" ".join(["oci", *below, layer.diff_id]).encode()).hexdigest()[:32]

            async def unpack(root: Root, layer: Any = layer) -> None:
                descriptor = os.open(layer.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    await self._layers.work(
                        "unpack",
                        inherit=[descriptor],
                        blob=descriptor,
                        diff_id=layer.diff_id,
                        lower=root.lower,
                        target=root.upper,
                    )
                finally:
                    os.close(descriptor)

            await self._layers.once(key, unpack, below=below)
            below = (key, *below)
        return below

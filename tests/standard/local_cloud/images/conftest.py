"""Images on a temporary directory, with mounts and secrets that are plain dictionaries."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from modal_proto import api_pb2

from tests.support.registry import Registry, registry
from tests.support.small_image import small_image
from workbench.local_cloud.base.host import OWN_PYTHON
from workbench.local_cloud.images.build_functions import BuildFunctions
from workbench.local_cloud.images.images import BUILDING, Image, Images
from workbench.local_cloud.mounts.mount_rpc import MountRpcs
from workbench.local_cloud.registry.blobs import BlobStore
from workbench.local_cloud.rootfs.layers import Layers
from workbench.local_cloud.sandboxes.engine.isolation import seccomp_program
from workbench.local_cloud.store.database import Database

FROM_PYTHON = f"FROM python:{OWN_PYTHON}-slim"


@dataclass
class Service:
    """The images of one state directory."""

    root: Path
    database: Database
    mounts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    rpcs: MountRpcs | None = None  # which has mounts of its own

    def open(self) -> Images:
        """Images as a cloud that starts has them."""
        return Images(
            self.database,
            self.root,
            layers=Layers(self.root.parent / "rootfs"),
            blobs=BlobStore(self.root.parent / "blobs"),
            seccomp=seccomp_program(rooted=True),
            lay_out=self.rpcs.lay_out if self.rpcs else self._lay_out,
            mount_checksum=self.rpcs.checksum if self.rpcs else self._checksum,
            secrets=lambda ids: {name: value for each in ids for name, value in self.secrets[each].items()},
            functions=_no_functions,
        )

    def _checksum(self, mount_id: str) -> str:
        return hashlib.sha256(repr(self.mounts[mount_id]).encode()).hexdigest()

    def _lay_out(self, mount_ids: list[str], directory: Path) -> list[str]:
        for mount_id in mount_ids:
            for name, data in self.mounts[mount_id].items():
                path = directory / name.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return []


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    database = Database(tmp_path / "cloud.sqlite")
    (tmp_path / "images").mkdir(mode=0o711)
    yield Service(tmp_path / "images", database)
    database.close()


@pytest.fixture
async def images(service: Service) -> AsyncIterator[Images]:
    images = service.open()
    yield images
    await images.aclose()


async def made(
    images: Images, *commands: str, base: str = "", mount: str = "", secrets: tuple[str, ...] = (), force: bool = False
) -> Image:
    """Ask for a layer and wait for its end."""
    definition = layer(*commands, base=base, mount=mount, secrets=secrets)
    image_id = await images.get_or_create(definition, force_build=force)
    while images.get(image_id).state == BUILDING:
        async for _ in images.follow(image_id, after=0, timeout_s=60):
            pass
    return images.get(image_id)


def layer(*commands: str, base: str = "", mount: str = "", secrets: tuple[str, ...] = ()) -> api_pb2.Image:
    """The definition of a layer on a base, or on Python."""
    return api_pb2.Image(
        dockerfile_commands=["FROM base" if base else FROM_PYTHON, *commands],
        base_images=[api_pb2.BaseImage(docker_tag="base", image_id=base)] if base else [],
        context_mount_id=mount,
        secret_ids=secrets,
    )


def _no_functions() -> BuildFunctions:
    raise AssertionError("these images call no functions")


@pytest.fixture(scope="module")
def served() -> Iterator[Registry]:
    """A registry with one small image."""
    with registry() as served:
        served.push("small:1", small_image())
        yield served

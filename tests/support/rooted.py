"""Sandboxes on root file systems of their own: one base layer for the session, and images that tests write by hand."""

import asyncio
import os
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.layers import archive, digest
from tests.support.sandboxes import engine, root
from workbench.local_cloud.rootfs.bases import machine_layer
from workbench.local_cloud.rootfs.ids import NoRangeError, ids
from workbench.local_cloud.rootfs.layers import Layers, Root, order_descriptor
from workbench.local_cloud.rootfs.machine_base import NoMachineBaseError
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.host_users import isolation_uid
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import BindMount, SandboxSpec
from workbench.local_cloud.sandboxes.limits.sandbox_limits import Limits

__all__ = ["base", "engine", "image", "layers", "open_root", "root", "rooted", "spec_on", "store", "workspace"]

Member = tuple[tarfile.TarInfo, bytes]
MakeLayer = Callable[..., Awaitable[str]]  # of members of an archive, and the keys of the layers `below`


@pytest.fixture(scope="session")
def store() -> Iterator[Path]:
    """A store of layers for the session; skips where this machine has no ids for root file systems."""
    try:
        ids()
    except NoRangeError as error:
        pytest.skip(str(error))
    path = Path(tempfile.mkdtemp(prefix="workbench-rootfs-"))
    path.chmod(0o711)
    layers = Layers(path / "rootfs")
    yield layers.store
    left = [f"{place}/{one.name}" for place in ("layers", "live") for one in (layers.store / place).iterdir()]
    asyncio.run(layers.remove(left))
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def base(store: Path) -> str:
    """The key of the layer that is made of this machine's own system, made once."""
    try:
        return asyncio.run(machine_layer(Layers(store)))[0]
    except NoMachineBaseError as error:
        pytest.skip(str(error))


@pytest.fixture
def layers(store: Path) -> Layers:
    return Layers(store)


@pytest.fixture
async def open_root(layers: Layers) -> AsyncIterator[Callable[..., Root]]:
    """Opens roots on layers; removes what was written to them in the end."""
    roots: list[Root] = []

    def opened(*keys: str) -> Root:
        roots.append(layers.open(keys))
        return roots[-1]

    yield opened
    for made in roots:
        await layers.close(made)


@pytest.fixture
def workspace(root: Path) -> Path:
    path = root / "workspace"
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, ids().root, ids().root)
    return path


@pytest.fixture
async def image(layers: Layers) -> AsyncIterator[MakeLayer]:
    """Makes a layer of an archive's members, as a registry's image has them; returns its key."""
    made: list[str] = []

    async def make(*members: Member, below: tuple[str, ...] = ()) -> str:
        tar = archive(*members)
        key = os.urandom(16).hex()

        async def unpack(target: Root) -> None:
            blob = order_descriptor(tar)
            try:
                await layers.work(
                    "unpack", inherit=[blob], blob=blob, diff_id=digest(tar), lower=target.lower, target=target.upper
                )
            finally:
                os.close(blob)

        await layers.once(key, unpack, below=below)
        made.append(key)
        return key

    yield make
    await layers.remove([f"layers/{key}" for key in made])


@pytest.fixture
async def rooted(engine: Engine, workspace: Path, base: str, layers: Layers) -> AsyncIterator[Sandbox]:
    """A sandbox whose root file system is this machine's base, which lies elsewhere than in the store."""
    root = layers.open_on([str(layers.store / layers.path(base))])
    sandbox = await engine.create(spec_on(root, workspace))
    yield sandbox
    await engine.discard(sandbox)
    await layers.close(root)


def spec_on(
    root: Root,
    workspace: Path | None = None,
    *,
    name: str = "sb-test",
    limits: Limits | None = None,
    user: str = "",
    env: Mapping[str, str] | None = None,
    mounts: tuple[BindMount, ...] = (),
    workdir: str = "",
) -> SandboxSpec:
    """What a sandbox on a root is made from; the workspace is mounted at /workspace."""
    if workspace is not None:
        mounts = (BindMount(workspace, "/workspace"), *mounts)
    return SandboxSpec(
        sandbox_id=name,
        uid=ids().root,
        owner=isolation_uid(1),
        root=root,
        mounts=mounts,
        workdir=workdir or ("/workspace" if workspace is not None else "/"),
        user=user,
        env=env or {},
        limits=limits or Limits(),
    )

"""Decides whether what runs on an image gets a root file system of its own, and makes that of one without layers.

Such an image is this machine's base with the parts of its directory on top, which serve as layers where they are:
nothing is made for a sandbox or a function's container. Only what outlives the cloud, such as a snapshot, needs layers
in the store.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from workbench.local_cloud.images import layouts
from workbench.local_cloud.images.plans import ImageConfig
from workbench.local_cloud.rootfs import machine_base
from workbench.local_cloud.rootfs.bases import Told, machine_layer, machine_lower
from workbench.local_cloud.rootfs.layers import Layers, Root
from workbench.local_cloud.rootfs.machine_base import NoMachineBaseError


async def why_none(layers: Layers) -> str:
    """Return why no root file system of this machine's own packages can be made in a store; empty if one can."""
    if problem := await layers.problem():
        return problem
    try:
        machine_base.require()
    except NoMachineBaseError as error:
        return str(error)
    return ""


class OwnRoots:
    """The root file systems of sandboxes and of functions' containers."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers

    async def why_shared(self, config: ImageConfig) -> str:
        """Return why what runs on an image shares this machine's system, instead of a root of its own; else empty.

        This is the one place that decides it.
        """
        return "" if config.layers else await why_none(self._layers)

    async def open(
        self, config: ImageConfig, directory: Path | None, more: Iterable[Path] = (), *, told: Told
    ) -> Root | None:
        """Make a root for an image, whose directory is None if it has none; to be given to `Layers.close`.

        `more` are directories of this run between this machine's base and the image. None if what runs on the image
        shares this machine's system. `told` gets a sentence if a base has to be made first. Raises LayerError,
        NoMachineBaseError, OSError.
        """
        if config.layers:
            return self._layers.open(config.layers)
        if await self.why_shared(config):
            return None
        base = await machine_lower(self._layers, _packages(config, directory), told)
        own = [self._path(part) for part in reversed(_parts(directory))]
        return self._layers.open_on([*own, *map(str, more), base])

    def _path(self, part: Path) -> str:
        return os.path.relpath(part, self._layers.store)

    async def kept(self, config: ImageConfig, directory: Path | None) -> ImageConfig:
        """Return the config of an image with layers in the store, made if they are missing, that show the same files.

        Raises LayerError, NoMachineBaseError, OSError.
        """
        if config.layers:
            return config
        base, _ = await machine_layer(self._layers, _packages(config, directory))
        layers: tuple[str, ...] = (base,)
        env = dict(config.env)
        if directory is not None:
            key = hashlib.sha256(json.dumps(["parts", directory.name]).encode()).hexdigest()[:32]
            await self._layers.once(key, lambda root: self._link(_parts(directory), root))
            layers = (key, base)
            env = {"PATH": layouts.IMAGE_PATH, **env}
        python = layouts.PYTHON if config.interpreter else ""
        return replace(config, env=env, layers=layers, guest_python=python)

    async def _link(self, parts: Iterable[Path], root: Root) -> None:
        for part in parts:
            await self._layers.work("links", open={"source": str(part), "target": str(root.written)})


def _parts(directory: Path | None) -> list[Path]:
    """Return the parts of an image's directory, the lowest first."""
    if directory is None:
        return []
    inner = {name: layouts.below(directory / name, layouts.ENVIRONMENTS.get(name, "/")) for name in layouts.PARTS}
    return [directory / name for name in layouts.PARTS if any(inner[name].iterdir())]


def _packages(config: ImageConfig, directory: Path | None) -> tuple[str, ...]:
    """Return the packages of this machine that an image needs: those that it asked for, and Node for Node packages."""
    if directory is None or not any(layouts.below(directory / "npm", layouts.NPM_PREFIX).iterdir()):
        return config.packages
    return (*config.packages, "nodejs", "node")

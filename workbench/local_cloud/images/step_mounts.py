"""The files of a RUN's `--mount` flags, for as long as its build takes: what a step writes there is in no layer.

Files that are bound are copies, made by the same rules as COPY: a link in them leads nowhere else, and a step may write
to them. A cache lives as long as the build of its layer, so that no build finds what another one has left.
"""

import posixpath
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbench.local_cloud.images.build_sandbox import BuildFailedError
from workbench.local_cloud.images.plans import CopyFiles, RunMount
from workbench.local_cloud.images.run_mounts import BIND, CACHE
from workbench.local_cloud.rootfs.layers import Layers

_NAME = "mounted"


class StepMounts:
    """Makes the directories and files that the RUN steps of one build mount; released with `stack`."""

    def __init__(self, layers: Layers, stack: AsyncExitStack) -> None:
        self._layers = layers
        self._stack = stack
        self._caches: dict[str, Path] = {}

    async def paths(
        self,
        mounts: tuple[RunMount, ...],
        source: Callable[[RunMount], Awaitable[Mapping[str, Any]]],
        stack: AsyncExitStack,
    ) -> dict[RunMount, Path]:
        """Return where on this machine the files of mounts are; what is not a cache goes with `stack`.

        `source` says to the store's worker from where files are copied. Raises BuildFailedError, LayerError, OSError.
        """
        found: dict[RunMount, Path] = {}
        for mount in mounts:
            if mount.kind == BIND:
                found[mount] = await self._copied(mount, await source(mount), stack)
            elif mount.kind == CACHE:
                if mount.name not in self._caches:
                    self._caches[mount.name] = await self._cache(mount, source)
                found[mount] = self._caches[mount.name]
        return found

    async def _cache(self, mount: RunMount, source: Callable[[RunMount], Awaitable[Mapping[str, Any]]]) -> Path:
        if mount.origin:
            return await self._copied(mount, await source(mount), self._stack)
        return await self._made(
            "directory", mount, self._stack, path=f"/{_NAME}", owner_name=f"{mount.uid}:{mount.gid}", mode=mount.mode
        )

    async def _copied(self, mount: RunMount, source: Mapping[str, Any], stack: AsyncExitStack) -> Path:
        return await self._made("copy", mount, stack, step=asdict(copy_of(mount)), **source)

    async def _made(self, do: str, mount: RunMount, stack: AsyncExitStack, **order: Any) -> Path:
        root = await stack.enter_async_context(self._layers.root([]))
        await self._layers.work(do, lower=[self._layers.empty(root)], upper=root.upper, work=root.work, **order)
        made = root.written / _NAME
        if made.is_symlink() or not (made.is_dir() or made.is_file()):
            raise BuildFailedError(f"RUN --mount: '{mount.source[:200]}' is neither a file nor a directory.")
        return made


def copy_of(mount: RunMount) -> CopyFiles:
    """Return the COPY that brings the files of a mount to where it finds them."""
    source = posixpath.normpath(mount.source or ".").lstrip("/") or "."
    return CopyFiles((source,), f"/{_NAME}", into=False, mode="", owner="", unpack=False)

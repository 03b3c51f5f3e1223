"""Makes the layer of a base that is no image of a registry: one of this machine's own system."""

import asyncio
import base64
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from workbench.local_cloud.rootfs import kept_bases, machine_base
from workbench.local_cloud.rootfs.layers import Layers, Root


async def machine_layer(layers: Layers, more: Iterable[str] = ()) -> tuple[str, str]:
    """Return the key of the layer with this machine's system, made if it is missing, and a sentence about it.

    `more` names installed packages that it has beside the usual ones. Raises NoMachineBaseError, LayerError.
    """
    base = await _base(more)
    await layers.once(base.key, lambda root: base.lay(layers, root))
    copied = f", {base.files} files copied" if base.files else ""
    return base.key, f"The base is made of this machine's own system: {len(base.packages)} packages{copied}."


async def machine_lower(layers: Layers, more: Iterable[str] = ()) -> str:
    """Return where the same layer is for what does not outlive this process, made if it is missing.

    It is the one that all clouds of this user share, by its absolute path, or else that of a store, by its path there.
    Raises NoMachineBaseError, LayerError, OSError.
    """
    base = await _base(more)
    if not layers.has(base.key) and (kept := await kept_bases.held(base.key, base.make)) is not None:
        return str(kept)
    return layers.path((await machine_layer(layers, more))[0])


class _Base:
    """A base of some packages: its key, and what makes it. `files` is how many were copied, 0 until then."""

    def __init__(self, more: tuple[str, ...]) -> None:
        self.packages = machine_base.packages(more)
        self.files = 0
        self._local = machine_base.local_files(more)
        self._data = {
            **machine_base.package_database(self.packages),
            **machine_base.accounts(),
            **machine_base.settings(),
            **machine_base.package_sources(),
        }
        parts = [machine_base.key(self.packages), machine_base.stamps(self._local), *sorted(self._data.items())]
        self.key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    async def lay(self, layers: Layers, root: Root) -> None:
        """Fill the upper of a root by links to the base that is kept for all clouds, or else by copies."""
        kept = await kept_bases.held(self.key, self.make)
        if kept is not None and kept_bases.can_link(kept, root):
            await layers.work("links", open={"source": str(kept), "target": str(root.written)})
        else:
            await self.make(layers, root)

    async def make(self, layers: Layers, root: Root) -> None:
        """Fill the upper of a root."""
        files = await asyncio.to_thread(lambda: [*machine_base.files(self.packages), *self._local])
        said: dict[str, Any] = await layers.work(
            "machine base",
            target=root.upper,
            files=files,
            owners=machine_base.owners(files),  # inside they would all be nobody's
            links=list(machine_base.alternatives(set(files))),
            made_links=machine_base.python_links(set(files)),
            data={path: base64.b64encode(content).decode() for path, content in self._data.items()},
            trees=[machine_base.CERTIFICATES],
        )
        self.files = said["files"]


async def _base(more: Iterable[str]) -> _Base:
    return await asyncio.to_thread(_read, tuple(sorted(set(more))), machine_base.changed_at())


@lru_cache(maxsize=8)
def _read(more: tuple[str, ...], changed_at: tuple[int, ...]) -> _Base:
    del changed_at
    return _Base(more)

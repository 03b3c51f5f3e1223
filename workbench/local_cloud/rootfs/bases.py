"""Makes the layer of a base that is no image of a registry: one of this machine's own system."""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

import structlog

from workbench.local_cloud.rootfs import kept_bases, machine_base
from workbench.local_cloud.rootfs.layers import Layers, Root

_log = structlog.get_logger(__name__)

Told = Callable[[str], None]  # gets a sentence when somebody has to wait
_WAIT = "This machine's base system is copied, once for all that needs the same packages: it takes some seconds."


def _to_the_log(text: str) -> None:
    _log.info("base.making", message=text)


async def machine_layer(layers: Layers, more: Iterable[str] = (), told: Told = _to_the_log) -> tuple[str, str]:
    """Return the key of the layer with this machine's system, made if it is missing, and a sentence about it.

    `more` names installed packages that it has beside the usual ones. `told` gets a sentence before files are copied.
    Raises NoMachineBaseError, LayerError.
    """
    base = await _base(more)
    await layers.once(base.key, lambda root: base.lay(layers, root, told))
    copied = f", {base.files} files copied" if base.files else ""
    return base.key, f"The base is made of this machine's own system: {len(base.packages)} packages{copied}."


async def machine_lower(layers: Layers, more: Iterable[str] = (), told: Told = _to_the_log) -> str:
    """Return where the same layer is for what does not outlive this process, made if it is missing.

    It is the one that all clouds of this user share, by its absolute path, or else that of a store, by its path there.
    Raises NoMachineBaseError, LayerError, OSError.
    """
    base = await _base(more)
    if not layers.has(base.key) and (kept := await kept_bases.held(base.key, partial(base.make, told=told))):
        return str(kept)
    return layers.path((await machine_layer(layers, more, told))[0])


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
            **machine_base.pip(self.packages),
        }
        parts = [machine_base.key(self.packages), machine_base.stamps(self._local), *sorted(self._data.items())]
        self.key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    async def lay(self, layers: Layers, root: Root, told: Told) -> None:
        """Fill the upper of a root by links to the base that is kept for all clouds, or else by copies."""
        kept = await kept_bases.held(self.key, partial(self.make, told=told))
        if kept is not None and kept_bases.can_link(kept, root):
            await layers.work("links", open={"source": str(kept), "target": str(root.written)})
        else:
            await self.make(layers, root, told)

    async def make(self, layers: Layers, root: Root, told: Told) -> None:
        """Fill the upper of a root."""
        told(_WAIT)
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

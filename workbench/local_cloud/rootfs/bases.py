"""Makes the layer of a base that is no image of a registry: this machine's own system, or the files of an image."""

import base64
from collections.abc import Iterable
from typing import Any

from workbench.local_cloud.rootfs import machine_base
from workbench.local_cloud.rootfs.layers import Layers, Root


async def machine_layer(layers: Layers, more: Iterable[str] = ()) -> tuple[str, str]:
    """Return the key of the layer with this machine's system, made if it is missing, and a sentence about it.

    `more` names installed packages that it has beside the usual ones. Raises NoMachineBaseError, LayerError.
    """
    chosen = machine_base.packages(more)
    key = machine_base.key(chosen)[:32]
    said: dict[str, Any] = {}

    async def make(root: Root) -> None:
        files = list(machine_base.files(chosen))
        data = {
            **machine_base.package_database(chosen),
            **machine_base.accounts(),
            **machine_base.settings(),
            **machine_base.package_sources(),
        }
        said.update(
            await layers.work(
                "machine base",
                target=root.upper,
                files=files,
                owners=machine_base.owners(files),  # inside they would all be nobody's
                links=list(machine_base.alternatives(set(files))),
                data={path: base64.b64encode(content).decode() for path, content in data.items()},
                trees=[machine_base.CERTIFICATES],
            )
        )

    await layers.once(key, make)
    copied = f", {said['files']} files copied" if said else ""
    return key, f"The base is made of this machine's own system: {len(chosen)} packages{copied}."

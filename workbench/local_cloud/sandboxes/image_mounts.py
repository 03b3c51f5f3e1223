"""Images that are mounted in running sandboxes: each mount is private and writable, and goes with the sandbox."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from workbench.local_cloud.rootfs.layers import LayerError, Layers
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.sandbox_records import Mounted, Record


class ImageMounts:
    """Mounts layers in sandboxes that have a root file system of their own."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers

    async def mount(self, record: Record, sandbox: Sandbox, keys: Sequence[str], path: str, *, owner: str) -> None:
        """Mount layers, the topmost first, at a path that `record.mounted` has been given by the caller.

        The mounted directory belongs to the user `owner` of the image, empty for what the layers say. Raises
        LayerError, OSError.
        """
        root = self._layers.open(keys)
        try:
            others = [mounted.inside for other, mounted in record.mounted.items() if other != path]
            said = await self._work(
                sandbox,
                "mount into",
                path=path,
                lower=root.lower or (self._layers.empty(root),),
                upper=root.upper,
                work=root.work,
                taken=[*record.mounts, *others],
                owner_name=owner,
            )
            sandbox.watch(root.written)
            record.mounted[path] = Mounted(said["path"], said["device"])
            record.roots.append(root)
        except BaseException:
            await asyncio.shield(self._layers.close(root))
            raise
        if record.ended.is_set():
            await self._layers.close(root)

    async def unmount(self, record: Record, sandbox: Sandbox, path: str) -> None:
        """Take away what is mounted at a path. Raises LayerError, OSError."""
        mounted = record.mounted[path]
        await self._work(sandbox, "unmount from", path=mounted.inside, device=mounted.device)

    async def _work(self, sandbox: Sandbox, do: str, **order: Any) -> dict[str, Any]:
        pidfd = sandbox.pidfd()
        if pidfd is None:
            raise LayerError("the sandbox has ended")
        try:
            return await self._layers.work(do, inherit=[pidfd], pidfd=pidfd, **order)
        finally:
            os.close(pidfd)

"""What image builds ask of the room of functions: to call a function in a container on the image built so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from workbench.local_cloud.images.builder import Log
from workbench.local_cloud.images.plans import CallFunction, ImageConfig
from workbench.local_cloud.rootfs.layers import Root


@dataclass(frozen=True)
class BuildFunction:
    """What a build must know of a function: the image that it runs on, its secrets' variables, and its timeout."""

    image_id: str
    secrets: Mapping[str, str]
    timeout_s: float


class BuildFunctions(Protocol):
    """Calls functions while images are built."""

    def get(self, function_id: str) -> BuildFunction:
        """Return what a build must know of a function.

        Raises CloudError: NOT_FOUND, or INVALID_ARGUMENT for a function that is not made for a build.
        """
        ...

    async def call(self, step: CallFunction, config: ImageConfig, root: Root, log: Log) -> None:
        """Call a function once on a root, which holds what the function has written when this returns.

        Its output goes to `log` line by line. Raises BuildFailedError when the function fails, and CloudError.
        """
        ...

"""Calls functions while images are built: once each, in a container on the image built so far.

What the function writes to the image's files is the next layer. Its code is as hostile as that of any RUN step, and
gets a root file system in the same way. In everything else it is a function as any: with secrets, volumes and a client.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.base.errors import CloudError, invalid
from workbench.local_cloud.functions.attempts import DEFAULT_TIMEOUT_S
from workbench.local_cloud.functions.container import Container
from workbench.local_cloud.functions.container_maker import Building, ContainerMaker
from workbench.local_cloud.functions.function_calls import Calls
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.images.build_functions import BuildFunction
from workbench.local_cloud.images.build_sandbox import BuildFailedError
from workbench.local_cloud.images.builder import Log
from workbench.local_cloud.images.plans import CallFunction, ImageConfig
from workbench.local_cloud.rootfs.layers import Root

_KEPT_LINES, _LAST_LINES = 100, 12
_MAX_PRINTED, _MAX_TRACEBACK = 1500, 8000


class FunctionsOfBuilds:
    """What the room of images asks for, see `BuildFunctions` there."""

    def __init__(
        self,
        apps: Apps,
        calls: Calls,
        pools: Pools,
        containers: ContainerMaker,
        clocks: Clocks,
        *,
        secrets: Callable[[list[str]], dict[str, str]],
    ) -> None:
        """`secrets` resolves secrets' ids into environment variables; timeouts go by its app's clock."""
        self._apps = apps
        self._calls = calls
        self._pools = pools
        self._containers = containers
        self._clocks = clocks
        self._secrets = secrets

    def get(self, function_id: str) -> BuildFunction:
        """Return what a build must know of a function; raises CloudError."""
        function = self._apps.function(function_id)
        if not function.is_builder_function:
            raise invalid(f"The function {function_id[:64]} is not made for the build of an image.")
        return BuildFunction(
            function.image_id, self._secrets(list(function.secret_ids)), function.timeout_secs or DEFAULT_TIMEOUT_S
        )

    async def call(self, step: CallFunction, config: ImageConfig, root: Root, log: Log) -> None:
        """Call a function once on a root, to the end of its container. Raises BuildFailedError, CloudError."""
        last: deque[str] = deque(maxlen=_KEPT_LINES)

        def on_output(fd: int, rows: list[str]) -> None:
            for line in (line for row in rows for line in row.splitlines(keepends=True)):
                last.append(line)
                log(line, fd)

        refusals: list[CloudError] = []

        async def make(task_id: str, function_id: str, definition_id: str) -> Container:
            building = Building(config, root, on_output)
            try:
                return await self._containers.make(task_id, function_id, definition_id, building)
            except CloudError as error:
                refusals.append(error)
                raise

        timeout_s = self.get(step.function_id).timeout_s
        call = self._calls.create(step.function_id)
        item = call.add(0, api_pb2.FunctionInput.FromString(step.payload))
        running = asyncio.create_task(self._pools.run_for_build(item, make))
        try:
            await self._clocks.of_function(step.function_id).first(asyncio.shield(running), timeout_s=timeout_s)
            if not running.done():
                raise BuildFailedError(
                    f"run_function took longer than its timeout of {timeout_s:g} s: give it a larger one.{_said(last)}"
                )
            code = await running
        finally:
            running.cancel()
            await asyncio.wait([running])
            self._calls.forget(call)
        if refusals:
            raise refusals[0]
        result = item.output.result if item.output is not None else api_pb2.GenericResult()
        if result.status == api_pb2.GenericResult.GENERIC_STATUS_SUCCESS:
            return
        if result.traceback:
            raise BuildFailedError(f"run_function failed.\n{result.traceback[-_MAX_TRACEBACK:]}{_said(last)}")
        raise BuildFailedError(
            f"run_function's container ended with exit code {code} before the function had returned.{_said(last)}"
        )


def _said(last: deque[str]) -> str:
    """Return the end of a sentence that tells the last lines of the output; a traceback there is told already."""
    own = "".join(last).partition("Traceback (most recent call last)")[0].splitlines(keepends=True)
    printed = "".join(own[-_LAST_LINES:])[-_MAX_PRINTED:].strip()
    return f" It has printed at last:\n{printed}" if printed else " It has printed nothing."

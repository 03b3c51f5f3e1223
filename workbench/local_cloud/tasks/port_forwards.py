"""Ports of function containers that are forwarded (`modal.forward`): tunnels at a loopback address of each container.

Containers share this machine's network, so the far end is this machine's 127.0.0.1, which a container reaches anyway: a
tunnel opens nothing to anybody who could not connect before. It is closed by the container, or when that ends.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from modal_proto import api_pb2

from workbench.local_cloud.base.descriptors import Descriptors
from workbench.local_cloud.base.errors import CloudError, Reason, already_exists, failed_precondition, invalid
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.sandboxes.network.tunnels import PortSpec, Tunnels
from workbench.local_cloud.server.callers import caller

MAX_FORWARDS = 8  # per container; each has up to 64 connections at once
_CONNECT_S = 5.0  # loopback answers at once, unless a backlog is full
_OF_A_TUNNEL = 2  # its listening sockets


class PortForwards:
    """Handles the RPCs of `modal.forward`, and closes what they have opened."""

    def __init__(self, pools: Pools, descriptors: Descriptors) -> None:
        self._pools = pools
        self._descriptors = descriptors
        self._open: dict[str, dict[int, Tunnels]] = {}  # by task id and port

    async def TunnelStart(self, request: api_pb2.TunnelStartRequest, context: Any) -> api_pb2.TunnelStartResponse:
        """Open a tunnel to a port of the calling container.

        Raises CloudError: PERMISSION_DENIED for a caller that is no container, ALREADY_EXISTS for a port that is
        forwarded already, FAILED_PRECONDITION for one too many.
        """
        task_id = _task_id()
        if not 1 <= request.port <= 65535:
            raise invalid(f"{request.port} is not a port: use 1 to 65535.")
        container = self._pools.task(task_id).container
        if container is None or container.exited.is_set():
            raise failed_precondition(f"The container {task_id} has ended.")
        of_task = self._open.setdefault(task_id, {})
        if request.port in of_task:
            raise already_exists(f"The container {task_id} forwards its port {request.port} already.")
        if len(of_task) >= MAX_FORWARDS:
            raise failed_precondition(f"A container forwards at most {MAX_FORWARDS} ports at once: leave another one.")
        spec = PortSpec(request.port, request.unencrypted, h2=request.tunnel_type == api_pb2.TUNNEL_TYPE_H2)
        of_task[request.port] = tunnels = Tunnels(task_id, _visit)
        try:
            with self._descriptors.reserved(_OF_A_TUNNEL, what="Another forwarded port"):
                tunnels.add([spec])
        except BaseException as error:
            del of_task[request.port]
            await tunnels.aclose()
            if isinstance(error, OSError):
                raise failed_precondition(f"The port {request.port} cannot be forwarded: {error}.") from error
            raise
        [tunnel] = tunnels.open
        return api_pb2.TunnelStartResponse(
            host=tunnel.host,
            port=tunnel.port,
            unencrypted_host=tunnel.host if tunnel.raw_port else "",
            unencrypted_port=tunnel.raw_port,
        )

    async def TunnelStop(self, request: api_pb2.TunnelStopRequest, context: Any) -> api_pb2.TunnelStopResponse:
        """Close the tunnel to a port of the calling container; the answer says whether there was one."""
        tunnels = self._open.get(_task_id(), {}).pop(request.port, None)
        if tunnels is not None:
            await tunnels.aclose()
        return api_pb2.TunnelStopResponse(exists=tunnels is not None)

    async def close(self, task_id: str) -> None:
        """Close every tunnel of a container that has ended."""
        await asyncio.gather(*(tunnels.aclose() for tunnels in self._open.pop(task_id, {}).values()))


@asynccontextmanager
async def _visit(port: int) -> AsyncIterator[socket.socket]:
    """Connect to 127.0.0.1:`port` while the block runs. Raises OSError, also TimeoutError."""
    with socket.socket() as inside:
        inside.setblocking(False)
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.get_running_loop().sock_connect(inside, ("127.0.0.1", port))
        yield inside


def _task_id() -> str:
    who = caller.get()
    if who.kind != "container" or who.task_id is None:
        raise CloudError(Reason.PERMISSION_DENIED, "Only a function's container may forward its ports.")
    return who.task_id

"""RPCs about a sandbox's ports: tunnels, readiness probes and connect tokens."""

from typing import Any

from modal_proto import api_pb2

from workbench.local_cloud.base.errors import CloudError, Reason, failed_precondition, invalid
from workbench.local_cloud.sandboxes.engine.readiness import DEFAULT_INTERVAL_S, Probe
from workbench.local_cloud.sandboxes.network.connect_tokens import Grant
from workbench.local_cloud.sandboxes.network.tunnels import MAX_PORTS, PortSpec
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes

_MAX_PROBE_CHARS = 65_536  # as for any program's arguments
_MAX_USER_DATA_CHARS = 8192  # it becomes one header
_CONNECT_PORT = 8080  # Modal's default


class SandboxPortRpcs:
    """Handles the RPCs about the ports of V2 sandboxes."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def SandboxGetTunnelsV2(
        self, request: api_pb2.SandboxGetTunnelsRequest, context: Any
    ) -> api_pb2.SandboxGetTunnelsResponse:
        """Return the addresses of a sandbox's tunnels, which are open from its start to its end."""
        record = self._sandboxes.get(request.sandbox_id)
        if record.result is not None:
            raise failed_precondition(f"The sandbox {record.sandbox_id} has ended, and its tunnels with it.")
        return api_pb2.SandboxGetTunnelsResponse(tunnels=tunnels(record))

    async def SandboxCreateConnectTokenV2(
        self, request: api_pb2.SandboxCreateConnectTokenRequest, context: Any
    ) -> api_pb2.SandboxCreateConnectTokenResponse:
        """Make a token for HTTP requests to one port of a sandbox."""
        record = self._sandboxes.get(request.sandbox_id)
        user = request.user_metadata
        if len(user) > _MAX_USER_DATA_CHARS or not user.isprintable():
            raise invalid(
                f"user_metadata must be at most {_MAX_USER_DATA_CHARS} printable characters; it has {len(user)}, or "
                "some that are not printable."
            )
        port = request.port if request.HasField("port") else _CONNECT_PORT
        if not 1 <= port <= 65535:
            raise invalid(f"{port} is not a port: use 1 to 65535.")
        if record.connect is None or record.ending is not None:
            raise failed_precondition(f"The sandbox {record.sandbox_id} has ended.")
        try:
            url, token = record.connect.admit(Grant(port, user.strip()))
        except ValueError as error:
            raise CloudError(Reason.RESOURCE_EXHAUSTED, f"{error}.") from error
        return api_pb2.SandboxCreateConnectTokenResponse(url=url, token=token)


def ports(definition: api_pb2.Sandbox) -> list[PortSpec]:
    """Return the ports for which a definition wants tunnels; raises CloudError INVALID_ARGUMENT.

    Only this machine can connect to them, whatever addresses the definition allows.
    """
    specs = definition.open_ports.ports
    numbers = [spec.port for spec in specs]
    if len(specs) > MAX_PORTS or len(set(numbers)) != len(numbers):
        raise invalid(f"A sandbox has at most {MAX_PORTS} open ports, each named once, not {len(specs)}.")
    if wrong := [number for number in numbers if not 1 <= number <= 65535]:
        raise invalid(f"{wrong[0]} is not a port: use 1 to 65535.")
    return [
        PortSpec(spec.port, unencrypted=spec.unencrypted, h2=spec.tunnel_type == api_pb2.TUNNEL_TYPE_H2)
        for spec in specs
    ]


def probe(definition: api_pb2.Sandbox) -> Probe | None:
    """Return a definition's readiness probe, None without one; raises CloudError INVALID_ARGUMENT."""
    if not definition.HasField("readiness_probe"):
        return None
    asked = definition.readiness_probe
    argv = list(asked.exec_command.argv)
    if not argv and not 1 <= asked.tcp_port <= 65535:
        raise invalid("A readiness probe needs a port from 1 to 65535, or a program.")
    if sum(map(len, argv)) > _MAX_PROBE_CHARS:
        raise invalid(
            f"The arguments of a readiness probe are together at most {_MAX_PROBE_CHARS} characters, not "
            f"{sum(map(len, argv))}."
        )
    interval_s = asked.interval_ms / 1000 if asked.interval_ms else DEFAULT_INTERVAL_S
    return Probe(port=asked.tcp_port, argv=argv, interval_s=interval_s)


def tunnels(record: Record) -> list[api_pb2.TunnelData]:
    """Return a sandbox's open tunnels as the protocol's TunnelData."""
    found = []
    for tunnel in record.tunnels.open if record.tunnels is not None else ():
        data = api_pb2.TunnelData(host=tunnel.host, port=tunnel.port, container_port=tunnel.inside_port)
        if tunnel.raw_port:
            data.unencrypted_host, data.unencrypted_port = tunnel.host, tunnel.raw_port
        found.append(data)
    return found

"""Statistics of a sandbox. Nothing is billed here, so costs stay unset; the amounts that Modal would bill are there."""

from typing import Any

from modal_proto import api_pb2

from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.base.errors import invalid
from workbench.local_cloud.sandboxes.limits.usage_samples import percentile
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes

_PERCENTILES = (5000, 9000, 9900)  # what the SDK documents, in hundredths of a percent


class SandboxStatsRpcs:
    """Handles the RPC of `Sandbox._experimental_stats`."""

    def __init__(self, sandboxes: Sandboxes, clocks: Clocks) -> None:
        self._sandboxes = sandboxes
        self._clocks = clocks

    async def SandboxGetStats(
        self, request: api_pb2.SandboxGetStatsRequest, context: Any
    ) -> api_pb2.SandboxGetStatsResponse:
        """Return a sandbox's usage in a time range, by default from its start until now."""
        record = self._sandboxes.get(request.sandbox_id)
        since = request.since.ToNanoseconds() / 1e9 if request.HasField("since") else record.created_at
        now = self._clocks.of(record.app_id).time()
        until = request.until.ToNanoseconds() / 1e9 if request.HasField("until") else now
        if since >= until:
            raise invalid("`since` must be before `until`.")
        samples = record.usage.between(since, until)
        lived = max(min(until, record.finished_at or until) - max(since, record.created_at), 0.0)
        response = api_pb2.SandboxGetStatsResponse(num_datapoints=len(samples), duration_hours=lived / 3600)
        response.since.FromNanoseconds(int(since * 1e9))
        response.until.FromNanoseconds(int(until * 1e9))
        requested = record.definition.resources
        cores = [max(sample.cores, requested.milli_cpu / 1000) * sample.seconds for sample in samples]
        memory = [max(sample.memory_gib, requested.memory_mb / 1024) * sample.seconds for sample in samples]
        response.billed_cpu_core_seconds, response.billed_memory_gib_seconds = sum(cores), sum(memory)
        for name, unit, values in (
            ("CPU Usage (cores)", "cores", [sample.cores for sample in samples]),
            ("Memory Usage (GiB)", "GiB", [sample.memory_gib for sample in samples]),
        ):
            if values:
                response.percentile_stats[name].unit = unit
                for points in _PERCENTILES:
                    response.percentile_stats[name].percentiles.add(
                        percentile_basis_points=points, value=percentile(values, points)
                    )
        return response

"""Asks the platform what a sandbox has used over time, by the SDK's own statistics. Blocking calls."""

import datetime as dt
import math

import modal

MOST_WINDOWS = 24  # each is one call
_LEAST_S = 1.0


def sandbox_use(sandbox_id: str, since_s: float, until_s: float) -> list[tuple[float, float, float, float]]:
    """What a sandbox used at most in windows of a time range, in order: begin, end, GiB of memory, cores.

    Times are Unix seconds by the platform's clock; windows without a sample are left out. Raises modal.Error.
    """
    sandbox = modal.Sandbox.from_id(sandbox_id)
    count = max(1, min(MOST_WINDOWS, math.floor((until_s - since_s) / _LEAST_S)))
    width = (until_s - since_s) / count
    found = []
    for place in range(count):
        begin, end = since_s + place * width, since_s + (place + 1) * width
        stats = sandbox._experimental_stats(since=_at(begin), until=_at(end)).percentile_stats
        if stats:
            memory, cores = (stats[name].percentiles[-1].value for name in ("Memory Usage (GiB)", "CPU Usage (cores)"))
            found.append((begin, end, memory, cores))
    return found


def _at(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)

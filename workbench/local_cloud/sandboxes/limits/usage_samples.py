"""Samples what a sandbox uses, every few seconds from its start to its end: CPUs and memory, for its statistics.

With many sandboxes it is the more rarely one's turn.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from workbench.local_cloud.base.host_processes import family
from workbench.local_cloud.sandboxes.limits.pacing import Pacer

_TURNS = Pacer(5.0)
FIRST_S = 1.0  # a short sandbox has statistics too
MAX_SAMPLES = 20_000  # more than a day
GIBIBYTE = 1024**3


@dataclass(frozen=True)
class Sample:
    """Usage in the `seconds` up to the Unix time `at`: CPU cores on average, memory in GiB at the end."""

    at: float
    seconds: float
    cores: float
    memory_gib: float


class UsageMeter:
    """The samples of one sandbox."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)

    async def run(self, pid: int, is_over: Callable[[], bool], *, now: Callable[[], float]) -> None:
        """Sample a process and its descendants until `is_over`, or this is cancelled.

        `now` tells the Unix time that samples get, by the cloud's clock; how long they took is real time.
        """
        before_at, before = time.monotonic(), 0.0
        pause_s = FIRST_S
        with _TURNS.taking_part():
            while True:
                await asyncio.sleep(pause_s)
                started = time.monotonic()
                cpu_s, memory = await asyncio.to_thread(_measure, pid)
                pause_s = _TURNS.pause_s(time.monotonic() - started)
                if is_over():  # and the number may be another process's by now
                    return
                took_s = time.monotonic() - before_at
                if not memory or took_s <= 0:
                    continue
                cores = max(cpu_s - before, 0.0) / took_s
                self._samples.append(Sample(now(), took_s, cores, memory / GIBIBYTE))
                before_at, before = before_at + took_s, cpu_s

    def between(self, since: float, until: float) -> list[Sample]:
        """The samples of a time range, in order."""
        return [sample for sample in self._samples if since <= sample.at < until]


def percentile(values: Sequence[float], basis_points: int) -> float:
    """The smallest value that so many hundredths of a percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * basis_points / 10_000) - 1, 0)]


def _measure(pid: int) -> tuple[float, int]:
    """CPU seconds since the start and bytes of memory now; both are 0 for what is gone."""
    cpu_s, memory = 0.0, 0
    for process in family(pid):
        try:
            times, now = process.cpu_times(), process.memory_info()
        except psutil.Error:
            continue
        # What has ended is in the times of who waited for it, in the end of the sandbox's process 1.
        cpu_s += times.user + times.system + times.children_user + times.children_system
        memory += now.rss - now.shared
    return cpu_s, memory

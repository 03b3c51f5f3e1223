"""Samples a sandbox's use of CPUs and memory every few seconds, for its statistics; with many sandboxes less often.

One that does next to nothing is sampled half as often after each sample, down to once in 30 s.
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

_PACER = Pacer(5.0)
FIRST_S = 1.0  # the first sample is taken early, so that a short sandbox has statistics, too
IDLE_CORES = 0.01  # a sandbox that uses less does next to nothing
IDLE_PAUSE_S = 30.0
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
    """Takes and keeps the samples of one sandbox."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)

    async def run(self, pid: int, is_over: Callable[[], bool], *, now: Callable[[], float]) -> None:
        """Sample a process and its descendants until `is_over` returns True or this is cancelled.

        `now` returns Unix seconds by the cloud's clock, for the samples' times; their lengths are real time.
        """
        before_at, before = time.monotonic(), 0.0
        pause_s = FIRST_S
        with _PACER.participant():
            while True:
                await asyncio.sleep(pause_s)
                started = time.monotonic()
                cpu_s, memory = await asyncio.to_thread(_measure, pid)
                last_pause_s, pause_s = pause_s, _PACER.pause_s(time.monotonic() - started)
                if is_over():  # the process id may be another process's by now
                    return
                took_s = time.monotonic() - before_at
                if not memory or took_s <= 0:
                    continue
                cores = max(cpu_s - before, 0.0) / took_s
                pause_s = next_pause_s(pause_s, last_pause_s, cores)
                self._samples.append(Sample(now(), took_s, cores, memory / GIBIBYTE))
                before_at, before = before_at + took_s, cpu_s

    def between(self, since: float, until: float) -> list[Sample]:
        """Return the samples from `since` until before `until`, both in Unix seconds, in order."""
        return [sample for sample in self._samples if since <= sample.at < until]


def next_pause_s(pause_s: float, last_s: float, cores: float) -> float:
    """Return how long to pause after a sample: `pause_s`, or twice the last pause when so few `cores` were used."""
    return max(pause_s, min(2 * last_s, IDLE_PAUSE_S)) if cores < IDLE_CORES else pause_s


def percentile(values: Sequence[float], basis_points: int) -> float:
    """Return a percentile: the smallest value that `basis_points` hundredths of a percent of values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * basis_points / 10_000) - 1, 0)]


def _measure(pid: int) -> tuple[float, int]:
    """Return a process family's CPU seconds since its start and its bytes of memory now; 0 and 0 when it has ended."""
    cpu_s, memory = 0.0, 0
    for process in family(pid):
        try:
            times, now = process.cpu_times(), process.memory_info()
        except psutil.Error:
            continue
        # The times of processes that have ended are in those of the parent that waited for them, at last process 1.
        cpu_s += times.user + times.system + times.children_user + times.children_system
        memory += now.rss - now.shared
    return cpu_s, memory

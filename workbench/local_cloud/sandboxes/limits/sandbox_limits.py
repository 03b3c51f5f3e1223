"""The limits of one sandbox, each number with its reason; Modal's own default where it has one."""

import os
from dataclasses import dataclass

MEBIBYTE = 1024 * 1024


def _machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one sandbox may use; `cpus` is None where only the machine limits them."""

    memory_bytes: int = min(4096 * MEBIBYTE, _machine_memory() // 2)  # a laptop with one hostile job stays usable
    cpus: float | None = None
    processes: int = 512  # enough for builds and browsers, few enough that a fork bomb ends quickly
    tmpfs_bytes: int = 512 * MEBIBYTE  # each of /tmp, /dev/shm and the home, which are in memory
    workspace_bytes: int = 8192 * MEBIBYTE  # all writable mounts together, on the host's disk
    workspace_entries: int = 500_000  # as many as a v1 volume holds
    stored_bytes: int = 32_768 * MEBIBYTE  # new contents in commits, whose history keeps what files no longer hold


def limits_of(*, memory_mb: int, memory_mb_max: int, milli_cpu: int, milli_cpu_max: int) -> Limits:
    """Return the limits for a sandbox's resources, MiB and thousandths of CPUs as in the protocol; 0 means "not given".

    A requested memory above the default raises the limit. A `…_max` is the limit itself. Memory is limited to what the
    machine has in any case.
    """
    memory = max(Limits.memory_bytes, memory_mb * MEBIBYTE)
    if memory_mb_max:
        memory = memory_mb_max * MEBIBYTE
    cpus = milli_cpu_max / 1000 if milli_cpu_max else None
    if cpus is not None and milli_cpu > milli_cpu_max:
        cpus = milli_cpu / 1000
    return Limits(memory_bytes=min(memory, _machine_memory()), cpus=cpus)

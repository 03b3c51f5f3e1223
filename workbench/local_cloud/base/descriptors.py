"""How many files and sockets (descriptors) this process may have open, and whether there is room for more of them.

Work that runs out of descriptors halfway loses something. So whatever needs many of them reserves them first, and is
refused when there are too few.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workbench.local_cloud.base.errors import exhausted

OF_A_SANDBOX = 32  # while it starts; a running one keeps ten
OF_A_PROGRAM = 12  # its pipes, and the files that hold its output
_OF_THE_REST = 48  # kept free for connections, the database, files that are read and written in between
_OPEN = Path("/proc/self/fd")
_ENOUGH = 65_536  # not more: child processes inherit the limit, and some of them close every number up to it


def raise_limit() -> int:
    """Raise this process's limit to 65,536 descriptors, or to its hard limit if that is lower; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return _limit()


class Descriptors:
    """Counts the descriptors that are open, and those that are reserved for work that is about to open them."""

    def __init__(self, *, limit: Callable[[], int] | None = None) -> None:
        """`limit` returns how many descriptors may be open; the default is this process's own limit."""
        self._limit = limit or _limit
        self._reserved = 0

    def has_room(self, wanted: int) -> bool:
        """Whether `wanted` more descriptors can be opened with enough left for the rest of the cloud."""
        return _open() + self._reserved + wanted + _OF_THE_REST <= self._limit()

    @contextmanager
    def reserved(self, wanted: int, *, what: str) -> Iterator[None]:
        """Reserve `wanted` descriptors while the block runs; `what` names their use in the error.

        Raises CloudError RESOURCE_EXHAUSTED when there are too few.
        """
        if not self.has_room(wanted):
            raise exhausted(
                f"{what} cannot be had now: it needs {wanted} open files and sockets, and of the {self._limit()} that "
                "the local cloud may have open too few are left. End some sandboxes, or start the cloud with a higher "
                "limit (`ulimit -n`)."
            )
        self._reserved += wanted
        try:
            yield
        finally:
            self._reserved -= wanted


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft


def _open() -> int:
    """Count the open descriptors. With hundreds of sandboxes they are thousands, and listing them takes milliseconds.

    Since Linux 6.2 the size of the directory tells their number (proc_pid_fd(5)); before that it is 0.
    """
    return _OPEN.stat().st_size or sum(1 for _ in _OPEN.iterdir())

"""How many files and sockets this process may have open, and whether there is room for more of them.

Who finds none left in the middle of its work loses something; so what needs many asks first, and is refused.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workbench.local_cloud.base.errors import exhausted

OF_A_SANDBOX = 32  # while it starts; it keeps ten
OF_A_PROGRAM = 12  # its pipes, and the files that hold its output
_OF_THE_REST = 48  # connections, the database, what is read and written in between
_ENOUGH = 65_536  # more are not asked for: what runs inherits the limit, and some programs try each number


def raise_limit() -> int:
    """Raise the limit as far as this process may, and as it makes sense; returns what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return _limit()


class Descriptors:
    """Counts what is open, and what was promised to those who are about to open some."""

    def __init__(self, *, limit: Callable[[], int] | None = None) -> None:
        """`limit` says how many there may be: this process's own limit, unless a test says otherwise."""
        self._limit = limit or _limit
        self._promised = 0

    def has_room(self, wanted: int) -> bool:
        """Whether so many more can be opened, with enough left for the rest of the cloud."""
        return _open() + self._promised + wanted + _OF_THE_REST <= self._limit()

    @contextmanager
    def promised(self, wanted: int, *, what: str) -> Iterator[None]:
        """Have room for so many for the length of a block; raises CloudError RESOURCE_EXHAUSTED when there is none."""
        if not self.has_room(wanted):
            raise exhausted(
                f"{what} cannot be had now: the local cloud may have {self._limit()} files and sockets open, and they "
                "are used up. End some sandboxes, or start the cloud with a higher limit (`ulimit -n`)."
            )
        self._promised += wanted
        try:
            yield
        finally:
            self._promised -= wanted


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft


def _open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())

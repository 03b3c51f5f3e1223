"""When a sandbox was last used, for its idle timeout."""

from collections.abc import Iterator
from contextlib import contextmanager

from workbench.local_cloud.base.clock import Clock


class Activity:
    """Counts the open connections to a sandbox's ports, and keeps the last moment at which it was used."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._visitors = 0
        self._last = clock.monotonic()

    def touch(self) -> None:
        """Record that the sandbox is used now."""
        self._last = self._clock.monotonic()

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Count a connection to a port of the sandbox while the block runs."""
        self._visitors += 1
        try:
            yield
        finally:
            self._visitors -= 1
            self.touch()

    def idle_s(self, *, busy: bool) -> float:
        """Return the seconds since the last use; 0 with an open connection, or if it is `busy` otherwise."""
        if self._visitors or busy:
            self.touch()
        return self._clock.monotonic() - self._last

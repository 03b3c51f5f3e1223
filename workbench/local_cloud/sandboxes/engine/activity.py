"""Whether somebody uses a sandbox, and since when nobody does: what its idle timeout counts."""

from collections.abc import Iterator
from contextlib import contextmanager

from workbench.local_cloud.base.clock import Clock


class Activity:
    """Visits to a sandbox's ports, and the last moment at which it was used."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._visitors = 0
        self._last = clock.monotonic()

    def touch(self) -> None:
        """Note that somebody uses it now."""
        self._last = self._clock.monotonic()

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Somebody is there for as long as the block lasts."""
        self._visitors += 1
        try:
            yield
        finally:
            self._visitors -= 1
            self.touch()

    def idle_s(self, *, busy: bool) -> float:
        """Seconds without anybody; 0 with a visitor, or while it is `busy` with something else."""
        if self._visitors or busy:
            self.touch()
        return self._clock.monotonic() - self._last

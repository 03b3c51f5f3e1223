"""The time that counts for a run: it stands still while the run waits until others have started their sandboxes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class OwnTime:
    """A clock of one run. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._still_s = 0.0
        self._still_since: float | None = None

    def now(self) -> float:
        """Seconds since an unspecified start, without those for which the time has stood still."""
        return (self._clock() if self._still_since is None else self._still_since) - self._still_s

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let the time stand still for the duration of the block."""
        self._still_since = since = self._clock()
        try:
            yield
        finally:
            self._still_s += self._clock() - since
            self._still_since = None

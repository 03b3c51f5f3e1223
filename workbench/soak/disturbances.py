"""Records when faults were injected that may affect any run; at other times only the targeted run may fail."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Disturbances:
    """A list of time spans, by this machine's monotonic clock in seconds."""

    def __init__(self) -> None:
        self._spans: list[list[float]] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        """Record the duration of the block as a span."""
        span = [time.monotonic(), math.inf]
        self._spans.append(span)
        try:
            yield
        finally:
            span[1] = time.monotonic()

    def touch(self, began: float, ended: float) -> bool:
        """Whether any span overlaps the time between two moments."""
        return any(start <= ended and began <= end for start, end in self._spans)

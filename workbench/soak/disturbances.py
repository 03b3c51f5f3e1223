"""When something was done that any run may feel, beside the one that it was meant for. No other has an excuse."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Disturbances:
    """Spans of time, on this machine's monotonic clock."""

    def __init__(self) -> None:
        self._spans: list[list[float]] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        """The length of the block is one."""
        span = [time.monotonic(), math.inf]
        self._spans.append(span)
        try:
            yield
        finally:
            span[1] = time.monotonic()

    def touch(self, began: float, ended: float) -> bool:
        """Whether there was one between two moments."""
        return any(start <= ended and began <= end for start, end in self._spans)

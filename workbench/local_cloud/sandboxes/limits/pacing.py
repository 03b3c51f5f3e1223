"""What is done for every sandbox from time to time: the more of them there are, the more rarely it is one's turn."""

from collections.abc import Iterator
from contextlib import contextmanager

_SHARE = 20  # one kind of work should take a twentieth of the time, for all sandboxes together
_MOST_S = 30.0  # that one waits for others


class Pacer:
    """One kind of work, done every `every_s` seconds for each that takes part, unless that is too much."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.parts = 0

    @contextmanager
    def taking_part(self) -> Iterator[None]:
        """Count as one for whom it is done for as long as the block."""
        self.parts += 1
        try:
            yield
        finally:
            self.parts -= 1

    def pause_s(self, took_s: float) -> float:
        """How long one waits, for whom it has taken so long, to the next time."""
        return max(self.every_s, min(took_s * _SHARE * (self.parts - 1), _MOST_S))

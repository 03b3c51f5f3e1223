"""Paces work that is done again and again for every sandbox: with more sandboxes, each has it done less often."""

from collections.abc import Iterator
from contextlib import contextmanager

_SHARE = 20  # one kind of work takes at most about a twentieth of the time, for all sandboxes together
_MOST_S = 30.0  # the longest pause


class Pacer:
    """Computes the pauses of one kind of work, which each participant does every `every_s` seconds or less often."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.participants = 0

    @contextmanager
    def participant(self) -> Iterator[None]:
        """Count one more participant (a sandbox for which the work is done) while the block runs."""
        self.participants += 1
        try:
            yield
        finally:
            self.participants -= 1

    def pause_s(self, took_s: float) -> float:
        """Return how many seconds a participant pauses after work that took `took_s` seconds.

        The pause is 20 times `took_s` for each other participant, at least `every_s` and at most 30 s.
        """
        return max(self.every_s, min(took_s * _SHARE * (self.participants - 1), _MOST_S))

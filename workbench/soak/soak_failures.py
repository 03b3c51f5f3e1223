"""The one failure of a soak: a promise was not kept."""

from collections.abc import Sequence


class SoakFailedError(Exception):
    """The message says what happened and when; `left` has what was left behind in words, one thing each."""

    def __init__(self, message: str, *, left: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.left = tuple(left)

"""The one failure of a soak: a promise was not kept."""

from collections.abc import Sequence

from workbench.errors import WorkbenchError


class SoakFailedError(WorkbenchError):
    """The message says what happened and when; `left` has what was left behind in words, one thing each."""

    def __init__(self, message: str, *, left: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.left = tuple(left)

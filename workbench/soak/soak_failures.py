"""The exception of all soaks: a promise was not kept."""

from collections.abc import Sequence

from workbench.errors import WorkbenchError


class SoakFailedError(WorkbenchError):
    """A promise was not kept. The message says what happened and when; `left` describes each thing left behind."""

    def __init__(self, message: str, *, left: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.left = tuple(left)

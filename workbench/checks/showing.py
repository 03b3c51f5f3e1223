"""Shows a check in the notebook's cell that has asked for it, line by line; elsewhere it shows nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from workbench.checks.lines import Line, Report
from workbench.views import live_view


class Showing:
    """What a cell shows of one check. `view` is its widget, None outside of a notebook."""

    def __init__(self, view: Any | None) -> None:  # it is of a room above this one
        self._view = view

    def tell(self, line: Line) -> None:
        """Show a line that was measured."""
        if self._view is not None:
            self._view.tell(line)

    def finish(self, report: Report) -> None:
        """Show the verdict; the cell that shows it does not show the report once more."""
        if self._view is not None:
            self._view.finish(report)
            report.is_shown()


@contextmanager
def shown(names: tuple[str, ...], target: str, url: str) -> Iterator[Showing]:
    """Show a check while the block lasts; an exception of the block is shown, too."""
    view = live_view("check", names, target=target, url=url)
    try:
        yield Showing(view)
    except BaseException as error:
        if view is not None:
            view.fail(error)
        raise

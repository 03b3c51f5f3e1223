"""Which widget shows which thing in JupyterLab.

Runs and files know nothing of widgets, which know them: what has a `view()` asks here, and the package's root says
which widget that is.
"""

from collections.abc import Callable
from typing import Any, Literal

Thing = Literal["run", "project files"]
_widgets: dict[Thing, Callable[..., Any]] = {}


def show_with(thing: Thing, make: Callable[..., Any]) -> None:
    """Say what makes the widget of a kind of thing: called with the thing, and with options of the widget's own."""
    _widgets[thing] = make


def view_of(thing: Thing, *shown: Any, **options: Any) -> Any:  # each caller knows its widget
    """Make the widget that shows `shown`."""
    return _widgets[thing](*shown, **options)

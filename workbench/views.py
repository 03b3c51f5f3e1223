"""A registry of which widget shows which kind of thing in JupyterLab.

Runs and files do not import widgets, because widgets import them. A thing's `view()` asks this registry for its widget;
the package's root fills it.
"""

from collections.abc import Callable
from typing import Any, Literal

Thing = Literal["run", "project files"]
_widgets: dict[Thing, Callable[..., Any]] = {}


def show_with(thing: Thing, make: Callable[..., Any]) -> None:
    """Register `make` for a kind of thing: called with the thing and the widget's options, it returns the widget."""
    _widgets[thing] = make


def view_of(thing: Thing, *shown: Any, **options: Any) -> Any:  # each caller knows its widget
    """Make the widget that is registered for a kind of thing, showing `shown`."""
    return _widgets[thing](*shown, **options)

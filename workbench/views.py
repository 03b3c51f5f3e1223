"""A registry of which widget shows which kind of thing in JupyterLab.

Runs and files do not import widgets, because widgets import them. A thing's `view()` asks this registry for its widget;
the package's root fills it.
"""

import sys
from collections.abc import Callable
from typing import Any, Literal

Thing = Literal["run", "project files", "check"]
_widgets: dict[Thing, Callable[..., Any]] = {}


def show_with(thing: Thing, make: Callable[..., Any]) -> None:
    """Register `make` for a kind of thing: called with the thing and the widget's options, it returns the widget."""
    _widgets[thing] = make


def view_of(thing: Thing, *shown: Any, **options: Any) -> Any:  # each caller knows its widget
    """Make the widget that is registered for a kind of thing, showing `shown`."""
    return _widgets[thing](*shown, **options)


def shell_of_the_cell() -> Any | None:
    """The shell of the notebook whose cell runs this; None elsewhere, also in a terminal's IPython."""
    module = sys.modules.get("IPython")  # a notebook has it imported
    shell = None if module is None else module.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def live_view(thing: Thing, *shown: Any, **options: Any) -> Any | None:
    """Show the widget of a kind of thing in the notebook's cell that runs, and return it; elsewhere return None."""
    if shell_of_the_cell() is None:
        return None
    view = view_of(thing, *shown, **options)
    view._ipython_display_()
    return view

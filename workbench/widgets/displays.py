"""Keeps what a notebook shows of widgets up to date while nobody looks at them, as in papermill.

A notebook keeps an output as it was when it was displayed, and drops what comes for it between two cells. So at the end
of each cell, widgets that no page shows are displayed again in their old places, where they have changed since.
"""

import logging
import weakref
from typing import Any, Protocol

from IPython.core.getipython import get_ipython

_log = logging.getLogger(__name__)


class Displayed(Protocol):
    """A widget that has been displayed."""

    def display_again(self) -> None:
        """Bring its displays up to date."""


_displayed: "weakref.WeakSet[Displayed]" = weakref.WeakSet()
_watched: "weakref.WeakSet[Any]" = weakref.WeakSet()  # the shells whose cells tell of their end


def watch(widget: Displayed) -> None:
    """Have a widget display itself again at the end of each cell, for as long as it lives. Idempotent."""
    _displayed.add(widget)
    shell = get_ipython()
    if shell is not None and shell not in _watched:
        _watched.add(shell)
        shell.events.register("post_run_cell", _at_the_end_of_a_cell)


def _at_the_end_of_a_cell(_result: object) -> None:
    for widget in list(_displayed):
        try:
            widget.display_again()
        except Exception:  # noqa: BLE001  # any failure leaves the display as it was, and the notebook goes on
            _log.warning("a widget was not displayed again", exc_info=True)

"""The static forms of widgets in a notebook, which say last what the widgets said last.

Why: a reader without a kernel (GitHub, nbconvert, a page that is opened tomorrow) draws no widget, and most draw
nothing else of an output that has one. So a page that draws widgets gets the static form as an output of its own, which
gives way to the widget as long as that is drawn; a program that runs notebooks, as papermill does, gets the static form
alone.

A notebook keeps an output as it was when it was displayed, and drops what comes for it between two cells, unless a page
is there. So where nobody looks, static forms are brought up to date at the end of each cell; where a page is, soon
after each change. A page that was loaded again hears of no display that was made before; the widget itself tells it.
"""

import html
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from typing import Any, Protocol, TypedDict

from IPython.core.getipython import get_ipython
from IPython.display import display

_log = logging.getLogger(__name__)
_SOONEST_S = 0.25
_LATEST_S = 10.0
_SHARE = 20  # what changes all the time is brought up to date when this part of its age has passed

# In JupyterLab a static form is not shown while the widget above it is loaded or drawn. What stands there instead of a
# widget that is not known any more, or only from the notebook, is not shown beside a static form.
_GIVES_WAY = (
    ".jp-OutputArea-child:has(> .lm-Panel:not([data-mime-type], .jupyter-widgets, .lm-mod-hidden)):not(:has("
    '.wb[data-live="never"])) + .jp-OutputArea-child:has([data-workbench-still]), '
    ".jp-OutputArea-child:has(> .lm-Panel.jupyter-widgets):has(+ .jp-OutputArea-child [data-workbench-still]), "
    '.jp-OutputArea-child:has(.wb[data-live="never"]):has(+ .jp-OutputArea-child [data-workbench-still]) '
    "{ display: none !important; }"
)


class Still(TypedDict):
    """A widget's static form, for readers without a kernel: HTML with all texts escaped, and text safe to print."""

    html: str
    plain: str


class Displayed(Protocol):
    """A widget that has been displayed."""

    def display_again(self) -> None:
        """Bring its static forms up to date, at the end of a cell."""

    def changed(self, changed: object) -> None:
        """Hear that a widget has changed, which may be another."""


_displayed: "weakref.WeakSet[Displayed]" = weakref.WeakSet()
_watched: "weakref.WeakSet[Any]" = weakref.WeakSet()  # the shells whose cells tell of their end


def watch(widget: Displayed) -> None:
    """Have a widget bring its static forms up to date at the end of each cell, for as long as it lives. Idempotent."""
    _displayed.add(widget)
    shell = get_ipython()
    if shell is not None and shell not in _watched:
        _watched.add(shell)
        shell.events.register("post_run_cell", _at_the_end_of_a_cell)


def tell_changed(changed: object) -> None:
    """Tell the widgets that have been displayed that one has changed, theirs or one within them."""
    for widget in list(_displayed):
        widget.changed(changed)


def _at_the_end_of_a_cell(_result: object) -> None:
    for widget in list(_displayed):
        try:
            widget.display_again()
        except Exception:  # noqa: BLE001  # any failure leaves the display as it was, and the notebook goes on
            _log.warning("a widget was not displayed again", exc_info=True)


def page_draws() -> bool:
    """Whether whoever runs the present cell draws widgets.

    A page names the cell, or can be asked for input; nbclient, and with it papermill and nbconvert, does neither. Voilà
    runs a notebook with nbclient, and shows it in a page.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False  # a terminal
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        return True
    request = kernel.get_parent("shell") or {}
    asked_for_input = request.get("content", {}).get("allow_stdin", True)
    return bool(asked_for_input or "cellId" in request.get("metadata", {}))


class Stills:
    """The static forms of one widget: one for each time that it was displayed, all of them the same."""

    def __init__(self, widget_id: str) -> None:
        self._id = widget_id
        self._names: list[str] = []
        self._shown = Still(html="", plain="")
        self._began = 0.0
        self._renewed = 0.0
        self._lock = threading.Lock()
        self.beside = False
        """Whether they stand beside the widget, in a page that draws it."""

    def __bool__(self) -> bool:
        return bool(self._names)

    def add(self, view: Mapping[str, Any], metadata: Mapping[str, Any], still: Still) -> None:
        """Display a widget: the MIME bundle of its view, if it is not empty and a page draws it, and a static form."""
        if not view:  # it is closed: this is its last state, and gives way to nothing
            display({"text/html": still["html"], "text/plain": still["plain"]}, raw=True)  # type: ignore[no-untyped-call]
            return
        self.beside = page_draws()
        if self.beside:
            # empty for whoever does not draw the widget, because the static form follows
            bundle = {**view, "text/html": "", "text/plain": ""}
            display(bundle, metadata=dict(metadata), raw=True)  # type: ignore[no-untyped-call]
        with self._lock:
            name = uuid.uuid4().hex
            self._names.append(name)
            self._shown, self._began = still, self._began or time.monotonic()
            self._publish(name, update=False)

    def renew(self, still: Still) -> bool:
        """Bring all of them up to date; returns whether they were not. May be called from any thread."""
        with self._lock:
            self._renewed = time.monotonic()
            if still == self._shown:
                return False
            self._shown = still
            for name in self._names:
                self._publish(name, update=True)
            return True

    def pause_s(self) -> float:
        """How long to wait after a change: the longer they have been displayed, the longer between two renewals."""
        now = time.monotonic()
        every = min(_LATEST_S, (now - self._began) / _SHARE)
        return max(_SOONEST_S, self._renewed + every - now)

    def bundle(self) -> dict[str, str]:
        """The MIME bundle of each of them."""
        drawn = self._shown["html"]
        if self.beside:
            drawn = f'<div data-workbench-still="{html.escape(self._id)}"><style>{_GIVES_WAY}</style>{drawn}</div>'
        return {"text/html": drawn, "text/plain": self._shown["plain"]}

    def _publish(self, name: str, *, update: bool) -> None:
        display(self.bundle(), raw=True, display_id=name, update=update)  # type: ignore[no-untyped-call]

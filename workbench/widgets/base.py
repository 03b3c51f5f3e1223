"""What all widgets are: Python that owns the state, a front-end file that draws it, a still picture without either.

A page's messages are handled in a thread of the widget's own: a cell that blocks the kernel holds up none of them, and
none holds up a cell. What fails there is logged and told to every page that looks, until somebody dismisses it.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypedDict, TypeVar

import anywidget
import traitlets

from workbench.runs.background_loop import BackgroundLoop
from workbench.text.plain_text import one_line

_log = logging.getLogger(__name__)
_SHARED = Path(__file__).parent / "shared"

T = TypeVar("T")
Buffers = Sequence[bytes | memoryview]


class Still(TypedDict):
    """A widget as a reader without a kernel sees it: HTML with everything escaped, and text that drives no terminal."""

    html: str
    plain: str


def front_end(file: str, *more: str) -> tuple[str, str]:
    """The JavaScript and CSS of the widget whose `__init__.py` this is; `more` are paths of JavaScript from there.

    anywidget takes one string of each: the shared files, then `more`, stand in front of the widget's own, so no bundler
    is needed. A widget's CSS names its class in every selector, for the styles of all widgets are in one page.
    """
    folder = Path(file).parent
    scripts = [_SHARED / "shared.js", *(folder / name for name in more), folder / f"{folder.name}.js"]
    styles = [_SHARED / "shared.css", folder / f"{folder.name}.css"]
    return "\n".join(one.read_text() for one in scripts), "\n".join(one.read_text() for one in styles)


class Panel(anywidget.AnyWidget):  # type: ignore[misc]  # anywidget has no types
    """The base of every widget. A subclass has `_esm, _css = front_end(__file__)`, `handle` and `still`."""

    label: ClassVar[str] = "Workbench"
    """What it is, for screen readers."""

    aria_label = traitlets.Unicode("").tag(sync=True)
    problem = traitlets.Unicode("").tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(aria_label=self.label, **traits)
        self._own: BackgroundLoop | None = None
        self._own_lock = threading.Lock()
        self._closed = False
        self.on_msg(self._on_message)

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Do what a page asks for, in the widget's own thread; one that nobody knows is ignored.

        `{"type": "hello"}` comes from each page that is opened: answer with what the traits do not tell.
        What takes longer than a moment goes to `in_background`.
        """
        raise NotImplementedError

    def still(self) -> Still:
        """What is known now, for readers without a kernel."""
        raise NotImplementedError

    def open(self) -> None:
        """Tell the front-end of the widget. Its messages come by the subshell that the page has chosen for them.

        Why: ipykernel would send them to the shell that has last used the widget, which a cell may be blocking
        (`ipykernel/kernelbase.py`, `shell_channel_thread_main`).
        """
        super().open()
        if self.comm is not None:
            self.comm._reply_subshell_for = None

    def close(self) -> None:
        """End the widget and its thread. Idempotent."""
        with self._own_lock:
            self._closed = True
            own, self._own = self._own, None
        if own is not None:
            own.close()
        super().close()
        self.__dict__.pop("_repr_mimebundle_", None)  # ipywidgets puts None there, but what is known can still be shown

    def soon(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do something in the widget's own thread, after what was asked for before. From any thread."""
        with self._own_lock:
            if self._closed:
                return
            self._own = self._own or BackgroundLoop()
            self._own.soon(self._guarded, work, *arguments)

    def later(self, delay_s: float, work: Callable[..., None], *arguments: Any) -> None:
        """Do something in the widget's own thread, so many seconds from now. From any thread."""
        self.soon(self._wait, delay_s, work, *arguments)

    def _wait(self, delay_s: float, work: Callable[..., None], *arguments: Any) -> None:
        asyncio.get_running_loop().call_later(delay_s, self.soon, work, *arguments)

    def in_background(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do something that takes its time, in a thread for it alone."""
        thread = threading.Thread(target=self._guarded, args=(work, *arguments), name="workbench-widget", daemon=True)
        thread.start()

    def _on_message(self, _widget: object, content: object, buffers: Buffers) -> None:
        """Hand a message over from whatever thread the kernel has for it: the main one, or one of a subshell."""
        if isinstance(content, dict):
            self.soon(self._take, content, buffers)

    def _take(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        if message.get("type") == "dismiss":
            self.problem = ""
            return
        self.handle(message, buffers)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001  # the boundary: the page is told, and the widget goes on
            if self._closed:
                return
            _log.warning("a widget's work failed", exc_info=True)
            self.problem = sentence(error)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The live widget, and for readers without a kernel what is known now."""
        live = None if self._closed else super()._repr_mimebundle_(**options)
        bundle, metadata = live if isinstance(live, tuple) else (live or {}, {})
        still = self.still()
        return {**bundle, "text/html": still["html"], "text/plain": still["plain"]}, metadata


class Gathered(Generic[T]):
    """Gathers what comes one by one, from any thread, and gives it to the page's sender at most once in `every_s`.

    Why: Jupyter's server drops messages beyond 1,000 a second.
    """

    def __init__(self, panel: Panel, every_s: float, send: Callable[[list[T]], None]) -> None:
        """`send` is called in the panel's own thread, never with nothing."""
        self._panel = panel
        self._every_s = every_s
        self._send = send
        self._items: list[T] = []
        self._scheduled = False
        self._lock = threading.Lock()

    def add(self, item: T) -> None:
        """Take one more."""
        with self._lock:
            self._items.append(item)
            if self._scheduled:
                return
            self._scheduled = True
        self._panel.later(self._every_s, self.flush)

    def take(self) -> list[T]:
        """All that waits; it is sent no more."""
        with self._lock:
            items, self._items = self._items, []
            self._scheduled = False
            return items

    def flush(self) -> None:
        """Send what waits now. In the panel's own thread."""
        if items := self.take():
            self._send(items)


def sentence(error: BaseException) -> str:
    """What went wrong, on one line, safe to show. Our own errors say what to do; others get their type in front."""
    message = one_line(str(error), 500)
    if type(error).__module__.startswith(("workbench", "modal_app")) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__

"""The base of all widgets: Python owns the state, a front-end file draws it, a static form shows it without a kernel.

Messages from a page are handled in a thread of the widget's own: a cell that blocks the kernel does not delay them, and
they do not delay a cell. A failure there is logged, and shown in every page until somebody dismisses it.
"""

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import anywidget
import traitlets

from workbench.runs.background_loop import BackgroundLoop
from workbench.text.plain_text import one_line
from workbench.widgets import displays
from workbench.widgets.displays import Still

_log = logging.getLogger(__name__)
_SHARED = Path(__file__).parent / "shared"
_CATCH_UP_S = 5.0

T = TypeVar("T")
Buffers = Sequence[bytes | memoryview]


def front_end(file: str, *more: str) -> tuple[str, str]:
    """The JavaScript and CSS of a widget, of which `file` is the `__init__.py`; `more` are further files beside it.

    anywidget takes one string of each, so the shared files, `more`, and the widget's own file are joined; no bundler is
    needed. Every selector in a widget's CSS must name its class, because all widgets' styles are in the same page.
    """
    folder = Path(file).parent
    scripts = [_SHARED / "shared.js", *(folder / name for name in more), folder / f"{folder.name}.js"]
    styles = [_SHARED / "shared.css", folder / f"{folder.name}.css"]
    return _joined(scripts), _joined(styles)


def _joined(files: list[Path]) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


class Panel(anywidget.AnyWidget):  # type: ignore[misc]  # anywidget has no types
    """The base of every widget. A subclass has `_esm, _css = front_end(__file__)`, `handle` and `still`."""

    label: ClassVar[str] = "Workbench"
    """What it is, for screen readers."""

    aria_label = traitlets.Unicode("").tag(sync=True)
    problem = traitlets.Unicode("").tag(sync=True)
    own_id = traitlets.Unicode("").tag(sync=True)
    """The id of its model, by which a page finds what belongs to it."""

    def __init__(self, **traits: Any) -> None:
        own_id = uuid.uuid4().hex
        super().__init__(aria_label=self.label, own_id=own_id, model_id=own_id, **traits)
        self._own: BackgroundLoop | None = None
        self._own_lock = threading.Lock()
        self._closed = False
        self._stills = displays.Stills(own_id)
        self._renewal = threading.Lock()
        self._renewing = False
        self._pages = 0
        self.observe(lambda _: displays.tell_changed(self))
        self.on_msg(self._on_message)

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Handle a page's message, in the widget's own thread; messages of unknown type are ignored.

        `{"type": "hello"}` comes from each page that is opened: answer with the state that is not in traits. Work that
        takes longer than a moment must go to `in_background`.
        """
        raise NotImplementedError

    def still(self) -> Still:
        """The static form of the present state, for readers without a kernel."""
        raise NotImplementedError

    def open(self) -> None:
        """Open the widget's comm, with its messages left to the subshell that the page chooses for them.

        Otherwise ipykernel would send them to the shell that has last used the widget, which a cell may be blocking
        (`ipykernel/kernelbase.py`, `shell_channel_thread_main`).
        """
        super().open()
        if self.comm is not None:
            self.comm._reply_subshell_for = None

    def close(self) -> None:
        """End the widget and its thread. Idempotent."""
        with self._own_lock:
            was_closed, self._closed = self._closed, True
            own, self._own = self._own, None
        if self._stills.beside and not was_closed:
            self.in_background(self._renew)  # it is all that stays
        if own is not None:
            own.close()
        super().close()
        self.__dict__.pop(
            "_repr_mimebundle_", None
        )  # ipywidgets sets it to None, but the static form can still be shown

    def soon(self, work: Callable[..., None], *arguments: Any) -> None:
        """Call `work` in the widget's own thread, after calls that were made before. May be called from any thread."""
        with self._own_lock:
            if self._closed:
                return
            self._own = self._own or BackgroundLoop()
            self._own.soon(self._guarded, work, *arguments)

    def later(self, delay_s: float, work: Callable[..., None], *arguments: Any) -> None:
        """Call `work` in the widget's own thread in `delay_s` seconds. May be called from any thread."""
        self.soon(self._wait, delay_s, work, *arguments)

    def _wait(self, delay_s: float, work: Callable[..., None], *arguments: Any) -> None:
        asyncio.get_running_loop().call_later(delay_s, self.soon, work, *arguments)

    def in_background(self, work: Callable[..., None], *arguments: Any) -> None:
        """Call `work`, which may take long, in a thread of its own."""
        thread = threading.Thread(target=self._guarded, args=(work, *arguments), name="workbench-widget", daemon=True)
        thread.start()

    def _on_message(self, _widget: object, content: object, buffers: Buffers) -> None:
        """Pass a message on to the widget's thread; the kernel calls this in its main thread or in a subshell's."""
        if isinstance(content, dict):
            self.soon(self._take, content, buffers)

    def _take(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        if message.get("type") == "dismiss":
            self.problem = ""
            return
        if message.get("type") == "hello":
            self._pages += 1
            self._tell_still()
        self.handle(message, buffers)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001  # any failure is shown by the page, and the widget goes on
            if self._closed:
                return
            _log.warning("a widget's work failed", exc_info=True)
            self.problem = sentence(error)

    def inner(self) -> Iterable["Panel"]:
        """The widgets that are shown within this one."""
        return ()

    def catch_up(self) -> None:
        """Wait until the traits say what is known by now, at most a few seconds."""
        for one in self.inner():
            one.catch_up()
        done = threading.Event()
        self.soon(done.set)
        if not self._closed:
            done.wait(_CATCH_UP_S)

    def display_again(self) -> None:
        """Bring the static forms in the notebook up to date, and where no page draws the widget its state as well."""
        if not self._stills:
            return
        if self._stills.beside:
            self.in_background(self._renew)
            return
        self.catch_up()
        for one in (self, *self.inner()):
            if not one._closed:
                one.send_state()
        self._renew()

    def changed(self, changed: object) -> None:
        """Bring the static forms up to date soon, if the widget that has changed is this one or one within it."""
        if not self._stills.beside or not (changed is self or self._has(changed)):
            return
        with self._own_lock:
            if self._renewing or self._closed:
                return
            self._renewing = True
        self.later(self._stills.pause_s(), self.in_background, self._renew)

    def _has(self, other: object) -> bool:
        return any(one is other or one._has(other) for one in self.inner())

    def _renew(self) -> None:
        """Bring the static forms up to date, which may wait for what is being read."""
        try:
            with self._renewal:  # what is said later is later
                self._renewing = False
                if self._stills.renew(self.still()):
                    self._tell_still()
        except Exception:  # noqa: BLE001  # any failure leaves the static form as it was, and the widget goes on
            _log.warning("a widget's static form was not brought up to date", exc_info=True)

    def _tell_still(self) -> None:
        """Tell the static form to pages that were loaded after the first one."""
        if self._pages > 1 and self._stills.beside:
            self.send({"type": "still", "bundle": self._stills.bundle()})

    def _ipython_display_(self) -> None:
        self._stills.add(*self._view(), self.still())
        displays.watch(self)
        self.changed(self)

    def _view(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The MIME bundle of the live widget, with its metadata; empty when it is closed."""
        live = None if self._closed else super()._repr_mimebundle_(**options)
        return live if isinstance(live, tuple) else (live or {}, {})

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The live widget, together with its static form for readers without a kernel."""
        bundle, metadata = self._view(**options)
        still = self.still()
        return {**bundle, "text/html": still["html"], "text/plain": still["plain"]}, metadata


class Gathered(Generic[T]):
    """Collects items from any thread and sends them together, at most once in `every_s` seconds.

    Jupyter's server drops messages beyond 1,000 a second, so items cannot be sent one by one.
    """

    def __init__(self, panel: Panel, every_s: float, send: Callable[[list[T]], None]) -> None:
        """`send` is called with a list of items, never empty, in the panel's own thread."""
        self._panel = panel
        self._every_s = every_s
        self._send = send
        self._items: list[T] = []
        self._scheduled = False
        self._lock = threading.Lock()

    def add(self, item: T) -> None:
        """Add an item, to be sent soon."""
        with self._lock:
            self._items.append(item)
            if self._scheduled:
                return
            self._scheduled = True
        self._panel.later(self._every_s, self.flush)

    def take(self) -> list[T]:
        """Remove and return the items that wait; they are not sent any more."""
        with self._lock:
            items, self._items = self._items, []
            self._scheduled = False
            return items

    def flush(self) -> None:
        """Send the items that wait now. To be called in the panel's own thread."""
        if items := self.take():
            self._send(items)


def sentence(error: BaseException) -> str:
    """An exception as one line that is safe to show; those that are not the workbench's own get their type in front."""
    message = one_line(str(error), 500)
    if type(error).__module__.startswith(("workbench", "modal_app")) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__

"""A widget that shows what is deployed, and changes it: deploy, roll back, stop, with the log as it comes.

All changes are made in background threads, so no cell is blocked. There is one change at a time; a second one is
refused. Secrets are shown by name, never by value.
"""

import html
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import traitlets

from workbench.deployment.deployments import Deployed
from workbench.errors import WorkbenchError
from workbench.text.plain_text import one_line, printable
from workbench.text.static_html import preformatted
from workbench.widgets.asking import asking_front_end
from workbench.widgets.base import Buffers, Gathered, sentence
from workbench.widgets.displays import Still
from workbench.widgets.reading import ReadingPanel

if TYPE_CHECKING:
    from workbench.session import Workbench

KEPT_LINES = 2000
BATCH_S = 0.1  # between two messages with lines; Jupyter's server drops messages when there are too many
_TAIL_LINES = 30


class ChangeRefusedError(WorkbenchError):
    """Another change is going on; the message says which."""


class Lines(TypedDict):
    """A message to the page: new lines of the log, or with `reset` all lines that are kept."""

    type: str
    reset: bool
    lines: list[str]


class DeployPanel(ReadingPanel):
    """Shows one app of a target. `deploy`, `rollback`, `stop` begin a change and return; `settle` waits for its end."""

    _esm, _css = asking_front_end(__file__)
    label = "Deployment"

    target = traitlets.Unicode("").tag(sync=True)
    app_name = traitlets.Unicode("").tag(sync=True)
    can_change = traitlets.Bool(True).tag(sync=True)
    why_without_claude = traitlets.Unicode("").tag(sync=True)
    deployed: "traitlets.Dict[str, Any]" = traitlets.Dict().tag(sync=True)
    busy = traitlets.Unicode("").tag(sync=True)
    result = traitlets.Unicode("").tag(sync=True)
    failed = traitlets.Bool(False).tag(sync=True)

    def __init__(self, workbench: "Workbench") -> None:
        super().__init__(
            target=workbench.target.kind,
            app_name=workbench.app_name,
            can_change=workbench.target.kind != "url",
            why_without_claude=workbench.why_without_claude or "",
        )
        self.workbench = workbench
        self._known: Deployed | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._lock = threading.Lock()
        self._unsent = Gathered[str](self, BATCH_S, self._send_lines)
        self.refresh()

    @property
    def lines(self) -> tuple[str, ...]:
        """The log of the changes made with this widget, as far as it is kept."""
        with self._lock:
            return tuple(self._lines)

    def deploy(self, *, rotate_secret: bool = False, with_claude: bool = True) -> None:
        """Begin to deploy, as `Workbench.deploy`. Raises ChangeRefusedError while another change is going on."""

        def change() -> str:
            endpoint = self.workbench.deploy(rotate_secret=rotate_secret, with_claude=with_claude, on_line=self._say)
            return f"deployed at {endpoint.url}"

        self._change("deploying", change)

    def rollback(self, version: str = "") -> None:
        """Begin to deploy an earlier version again, by default the one before. Raises as `deploy` does."""

        def change() -> str:
            self.workbench.rollback(version, on_line=self._say)
            return f"back to {version or 'the version before'}"

        self._change(f"rolling back to {version or 'the version before'}", change)

    def stop(self) -> None:
        """Begin to stop the app for everybody; runs under way end. Raises as `deploy` does."""

        def change() -> str:
            self.workbench.stop(on_line=self._say)
            return "stopped"

        self._change("stopping", change)

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Begin the change that a button of the page asks for."""
        match message:
            case {"type": "hello"}:
                self.send(Lines(type="lines", reset=True, lines=list(self.lines)))
            case {"type": "deploy", "rotate_secret": bool(rotate), "with_claude": bool(with_claude)}:
                self.deploy(rotate_secret=rotate, with_claude=with_claude)
            case {"type": "rollback", "version": str(version)}:
                self.rollback(version)
            case {"type": "stop"}:
                self.stop()
            case _:
                super().handle(message, buffers)

    def still(self) -> Still:
        """What is deployed, and the end of the log. It does not wait for a change that is going on."""
        if not self.busy:
            self.settle()
        title = f"Deployment of {one_line(self.app_name)} on {self.target}"
        known = self._known._repr_mimebundle_() if self._known is not None else None
        note = "" if known else self.why or "still being read"
        doing = self.busy and f"{self.busy} …"
        tail = "\n".join(self.lines[-_TAIL_LINES:])
        plain = [known["text/plain"] if known else f"{title}\n{note}", doing or self.result, tail]
        parts = [
            known["text/html"] if known else f"<strong>{html.escape(title)}</strong><p>{html.escape(note)}</p>",
            *(f"<p>{html.escape(text)}</p>" for text in [doing or self.result] if text),
            preformatted(tail) if tail else "",
        ]
        return {"plain": "\n".join(part for part in plain if part), "html": f"<div>{''.join(parts)}</div>"}

    def look(self) -> Deployed:
        """Read what is deployed now."""
        return self.workbench.deployments.look()

    def draw(self, found: Deployed) -> None:
        """Put what was read into the traits that the page shows."""
        self._known = found
        self.deployed = _drawn(found)

    def _change(self, doing: str, change: Callable[[], str]) -> None:
        with self._lock:
            if self.busy:
                raise ChangeRefusedError(f"{self.busy} goes on: wait for its end")
            with self.hold_sync():
                self.busy, self.result, self.failed = doing, "", False
        self.begin(self._changed, doing, change)

    def _changed(self, doing: str, change: Callable[[], str]) -> None:
        self._say(f"— {doing} {self.app_name} on {self.target}")
        try:
            result, failed = change(), False
        except Exception as error:  # noqa: BLE001  # any failure is shown by the page as the end of the change
            result, failed = _in_short(error), True
        self._say(f"— {'failed' if failed else 'done'}: {result}")
        self.read()
        with self.hold_sync():
            self.result, self.failed, self.busy = result, failed, ""

    def _say(self, line: str) -> None:
        shown = printable(line[:2000])
        with self._lock:
            self._lines.append(shown)
        self._unsent.add(shown)

    def _send_lines(self, lines: list[str]) -> None:
        self.send(Lines(type="lines", reset=False, lines=lines))


def _in_short(error: Exception) -> str:
    """The first line of an error; the rest, a command's output, is in the log already."""
    first, *more = str(error).splitlines() or [""]
    return f"{one_line(first.removesuffix(':'), 300)}; the log says why" if more else sentence(error)


def _drawn(known: Deployed) -> dict[str, Any]:
    """The parts of what is deployed that the page shows, as text, in JSON."""
    return {
        "state": known.state,
        "current": known.current,
        "url": known.url,
        "health": [known.health.ok, known.health.detail],
        "versions": [one.model_dump() for one in known.versions],
        "secrets": [[one.name, one.purpose, one.present] for one in known.secrets],
        "apps": [one.model_dump() for one in known.apps],
    }

"""A widget that plays the events of a run back, at 0.1 to 100 times their speed, in the view of live runs."""

from collections.abc import Iterable, Mapping
from typing import Any

import anywidget
import traitlets

from modal_app.contract.events import Event
from workbench.runs.playback import FASTEST, SLOWEST, NothingToPlayError, Playback, Recorded
from workbench.session import Workbench
from workbench.widgets.base import Buffers, Panel, front_end, sentence
from workbench.widgets.displays import Still
from workbench.widgets.run_view import RunView

TICK_S = 0.05
_OFFERED = 20  # archived runs in the page's choice


class Replay(Panel):
    """Plays a recording, an archived run or a list of events; with a workbench, its archived runs can be chosen.

    `playback` controls it from Python, for instance `replay.playback.seek(1500)`, in milliseconds.
    """

    _esm, _css = front_end(__file__)
    label = "Replay"

    title = traitlets.Unicode("").tag(sync=True)
    playing = traitlets.Bool(False).tag(sync=True)
    speed = traitlets.Float(1.0).tag(sync=True)
    position_ms = traitlets.Int(0).tag(sync=True)
    length_ms = traitlets.Int(0).tag(sync=True)
    played = traitlets.Int(0).tag(sync=True)
    count = traitlets.Int(0).tag(sync=True)
    offers = traitlets.Bool(False).tag(sync=True)
    offered: traitlets.List[dict[str, str]] = traitlets.List().tag(sync=True)
    loading = traitlets.Bool(False).tag(sync=True)
    slowest = traitlets.Float(SLOWEST).tag(sync=True)
    fastest = traitlets.Float(FASTEST).tag(sync=True)
    view: RunView | None = anywidget.WidgetTrait().tag(sync=True)

    def __init__(
        self, recorded: Recorded | Playback | Iterable[Event] | None = None, *, workbench: Workbench | None = None
    ) -> None:
        super().__init__(offers=workbench is not None)
        self._workbench = workbench
        self._ticking = False
        self.playback: Playback | None = None
        if recorded is not None:
            self.load(recorded)

    def load(self, recorded: Recorded | Playback | Iterable[Event]) -> None:
        """Play something else, from its beginning. Raises NothingToPlayError."""
        playback = recorded if isinstance(recorded, Playback) else Playback(recorded)
        before, view = self.view, RunView(playback, can_cancel=False)
        playback.on_jump(view.restart)
        self.playback = playback
        self.title = playback.state.run_id
        self.view = view
        self._show()
        if before is not None:
            before.close()

    def fetch(self, run_id: str) -> None:
        """Load an archived run of the workbench, in the background."""
        assert self._workbench is not None, "a replay without a workbench knows no archive: use load"
        self.loading = True
        self.in_background(self._load, self._workbench, run_id.strip())

    def play(self) -> None:
        """Start playing."""
        self._loaded().play()
        self._show()
        self.soon(self._tick)

    def pause(self) -> None:
        """Pause at the current place."""
        self._loaded().pause()
        self._show()

    def close(self) -> None:
        """Stop playing and close the widget. Idempotent."""
        if self.playback is not None:
            self.playback.pause()
        if self.view is not None:
            self.view.close()
        super().close()

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Do what a button of the page asks for."""
        match message:
            case {"type": "hello"} if self._workbench is not None and not self.offered:
                self.in_background(self._offer, self._workbench)
            case {"type": "load", "run_id": str(run_id)} if self._workbench is not None:
                self.fetch(run_id)
            case {"type": "play"}:
                self.play()
            case {"type": "pause"}:
                self.pause()
            case {"type": "step", "by": int(by)}:
                self._loaded().step(by)
            case {"type": "seek", "position_ms": int(position_ms) | float(position_ms)}:
                self._loaded().seek(position_ms)
            case {"type": "speed", "speed": int(speed) | float(speed)}:
                self._loaded().set_speed(max(SLOWEST, min(FASTEST, speed)))
        self._show()

    def inner(self) -> Iterable[Panel]:
        """The view of the run that is played."""
        return () if self.view is None else (self.view,)

    def still(self) -> Still:
        """The static form of the view at the current place."""
        return (
            self.view.still() if self.view is not None else Still(html="nothing is played", plain="nothing is played")
        )

    def _loaded(self) -> Playback:
        if self.playback is None:
            raise NothingToPlayError("choose a run to play first")
        return self.playback

    def _tick(self) -> None:
        """Play the events that are due, and schedule the next call as long as it plays."""
        if self._ticking or self.playback is None:
            return
        self.playback.advance()
        self._show()
        if self.playback.playing:
            self._ticking = True
            self.later(TICK_S, self._again)

    def _again(self) -> None:
        self._ticking = False
        self._tick()

    def _show(self) -> None:
        playback = self.playback
        if playback is None:
            return
        with self.hold_sync():
            self.playing = playback.playing
            self.speed = playback.speed
            self.position_ms = playback.position_ms
            self.length_ms = playback.length_ms
            self.played = playback.played
            self.count = playback.count
        if self.view is not None and self.view.pace != playback.pace:
            self.view.look()

    def _offer(self, workbench: Workbench) -> None:
        try:
            runs = workbench.runs.list(limit=_OFFERED)
        except Exception as error:  # noqa: BLE001  # an id can still be typed
            self.offered = [{"run_id": "", "text": sentence(error)}]
            return
        self.offered = [
            {"run_id": run.run_id, "text": ", ".join(filter(None, [*run.row()[1:3], *run.row()[4:6]]))} for run in runs
        ]

    def _load(self, workbench: Workbench, run_id: str) -> None:
        try:
            self.load(workbench.runs.get(run_id))
        finally:
            self.loading = False

"""A widget that shows one run: status, output as it arrives, Claude's messages, a timeline, its proof.

What is new is sent in batches, one binary message every 50 ms, because Jupyter's server drops messages beyond 1,000 a
second. A page that is opened or reloaded later asks for a snapshot, and gets the newest rows; those before them it asks
for when they are looked at (`paging`). Everything is sent from the widget's own thread, so that no batch can overtake a
snapshot.
"""

import threading
from collections.abc import Mapping
from typing import Any

import traitlets

from modal_app.contract.events import TERMINAL, Event, StatusEvent, StreamEvent
from workbench.runs.archived_run import ArchivedRun
from workbench.runs.arrivals import LATE_MS
from workbench.runs.claude_spans import ClaudeSpan
from workbench.runs.client import Received
from workbench.runs.inputs import described
from workbench.runs.output_index import LATEST_MS
from workbench.runs.view_state import ViewState, usage_of
from workbench.text.plain_text import one_line
from workbench.widgets.base import Buffers, Gathered, Panel, front_end, sentence
from workbench.widgets.displays import Still
from workbench.widgets.run_view.paging import Paging, reason_line
from workbench.widgets.run_view.source import Ended, Source
from workbench.widgets.run_view.still import still

BATCH_S = 0.05
_PROOF_S = 10.0
_LOOK_S = 1.0  # between two looks at what no event tells, such as whether the stream is being resumed


class RunView(Panel):
    """Shows a run that is live, has ended, or is played back. Closing the view does not end the run."""

    _esm, _css = front_end(__file__, "lines.js", "held.js", "shown.js", "output.js")
    label = "Run"

    condition = traitlets.Unicode("waiting").tag(sync=True)
    run_id = traitlets.Unicode("").tag(sync=True)
    phase = traitlets.Unicode("").tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)
    reason = traitlets.Unicode("").tag(sync=True)
    reason_line = traitlets.Unicode("").tag(sync=True)
    code = traitlets.Unicode("").tag(sync=True)
    exit_code = traitlets.Int(None, allow_none=True).tag(sync=True)
    elapsed_ms = traitlets.Int(0).tag(sync=True)
    pace = traitlets.Float(0.0).tag(sync=True)
    start = traitlets.Unicode("").tag(sync=True)
    event_count = traitlets.Int(0).tag(sync=True)
    sizes = traitlets.Dict().tag(sync=True)
    usage = traitlets.Unicode("").tag(sync=True)
    scripted = traitlets.Bool(False).tag(sync=True)
    reconnects = traitlets.Int(0).tag(sync=True)
    reconnecting = traitlets.Bool(False).tag(sync=True)
    cancelling = traitlets.Bool(False).tag(sync=True)
    can_cancel = traitlets.Bool(True).tag(sync=True)
    spans: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    lags: traitlets.List[list[int]] = traitlets.List().tag(sync=True)
    lag = traitlets.Unicode("").tag(sync=True)
    late_ms = traitlets.Int(0).tag(sync=True)
    uses: traitlets.List[list[float]] = traitlets.List().tag(sync=True)
    used = traitlets.Unicode("").tag(sync=True)
    first_output_ms = traitlets.Int(None, allow_none=True).tag(sync=True)
    proof: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    proof_note = traitlets.Unicode("").tag(sync=True)
    input = traitlets.Unicode("").tag(sync=True)

    def __init__(self, run: Source | ArchivedRun, *, can_cancel: bool = True) -> None:
        super().__init__(can_cancel=can_cancel)
        self.run: Source = Ended(run) if isinstance(run, ArchivedRun) else run
        self.input = described(self.run.request) if self.run.request is not None else ""
        self._proved = threading.Event()
        self._has_messages = False
        self._fault = ""
        self._paging = Paging(self.run, self.send)
        self._unsent = Gathered[Event](self, BATCH_S, self._send_events)
        self._stop = self.run.listen(self._on_event)
        self._sync_state()
        self._sync_timeline()
        self.run.on_end(self._on_end)
        if not self.run.state.ended:
            self.soon(self._look_again)

    def close(self) -> None:
        """Stop following the run. Idempotent."""
        self._stop()
        super().close()
        if isinstance(self.run, Ended):
            self.run.close()

    def restart(self) -> None:
        """Send everything anew, because earlier events have changed. May be called from any thread."""
        self.soon(self._send_snapshot)

    def look(self) -> None:
        """Update what no event tells, such as a broken stream. May be called from any thread."""
        self.soon(self._sync_state)

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Send a new page its snapshot, cancel the run, or tell of its output what a page asks for."""
        match message:
            case {"type": "snapshot", "ask": int(ask)}:
                self._send_snapshot(ask)
            case {"type": "cancel"} if not self.cancelling and self.can_cancel:
                self.cancelling = True
                self.in_background(self._cancel)
            case _:
                self._paging.answer(message)

    def still(self) -> Still:
        """The static form of the run's present state."""
        return still(self.run, self.proof, self.proof_note)

    def catch_up(self) -> None:
        """Wait until the traits say what is known by now: of a run that has ended, its proof. At most a few seconds."""
        if self.run.state.ended:
            self._proved.wait(_PROOF_S)
            self._proved.set()  # it is waited for once
        self.soon(self._send_last)
        super().catch_up()

    def _cancel(self) -> None:
        try:
            self.run.cancel()
        finally:
            self.cancelling = False

    def _on_event(self, received: Received) -> None:
        """Called in the run's thread with every event."""
        self._unsent.add(received.event)

    def _send_events(self, events: list[Event]) -> None:
        withdrawn = {one.replaces for one in events if isinstance(one, StreamEvent) and one.replaces is not None}
        self._paging.tail([one.seq for one in events], sorted(withdrawn))
        self._has_messages |= any(isinstance(event, StreamEvent) and event.message is not None for event in events)
        self._sync_state()
        if self.first_output_ms is None or any(isinstance(event, (StatusEvent, *TERMINAL)) for event in events):
            self._sync_timeline()

    def _send_last(self) -> None:
        self._unsent.flush()
        self._sync_state()  # a run that was refused has no event that would do it
        self._sync_timeline()

    def _send_snapshot(self, ask: int = 0) -> None:
        self._unsent.take()  # the snapshot has them already, among the run's events
        self._paging.snapshot(ask)
        self._sync_state()
        self._sync_timeline()

    def _look_again(self) -> None:
        self._sync_state()
        if self._has_messages:
            self._sync_timeline()  # what the model does is no phase
        if not self.run.state.ended:
            self.later(_LOOK_S, self._look_again)

    def _on_end(self) -> None:
        self.soon(self._send_last)
        self.in_background(self._prove)

    def _prove(self) -> None:
        try:
            self._fault = self.run.fault
            self.soon(self._sync_state)
            self.in_background(self._look_at_use)
            if self.run.state.run_id:  # else it was refused, so it has no archive
                self._check()
        finally:
            self._proved.set()

    def _check(self) -> None:
        self.proof_note = "checking …"
        try:
            checks = self.run.checks()
        except Exception as error:  # noqa: BLE001  # any failure is shown as the reason why there is no proof
            self.proof_note = sentence(error)
            return
        self.proof = [{"name": one.name, "ok": one.ok, "detail": one_line(one.detail)} for one in checks]
        self.proof_note = ""

    def _sync_state(self) -> None:
        state = self.run.state
        with self.hold_sync():
            self.condition = state.condition
            self.run_id = state.run_id
            self.phase = state.phase
            self.message = one_line(state.message)
            self.reason = self._fault or state.reason
            self.reason_line = reason_line(state)
            self.code = state.code
            self.exit_code = state.exit_code
            self.elapsed_ms = min(state.elapsed_ms, LATEST_MS)
            self.pace = self.run.pace
            self.start = _start(state)
            self.event_count = state.events
            self.sizes = {str(channel): count for channel, count in state.bytes.items()}
            self.usage = usage_of(state)
            self.scripted = state.scripted
            self.reconnects = self.run.reconnects
            self.reconnecting = self.run.reconnecting

    def _look_at_use(self) -> None:
        found = self.run.measured()
        with self.hold_sync():
            self.uses = [[one.from_ms, one.to_ms, one.memory_mib, one.cores] for one in found.uses]
            self.used = one_line(found.told)

    def _sync_timeline(self) -> None:
        drawn = self.run.timeline
        arrivals = self.run.arrivals
        with self.hold_sync():
            if arrivals is not None:
                self.lags = [[min(one.from_ms, LATEST_MS), one.lag_ms, one.events] for one in arrivals.lags]
                self.lag = arrivals.told
                self.late_ms = arrivals.most_ms if arrivals.most_ms >= LATE_MS else 0
            first = drawn.first_output_ms
            self.first_output_ms = None if first is None else min(first, LATEST_MS)
            self.spans = [
                {
                    "name": name.strip(),
                    "start": min(span.start_ms, LATEST_MS),
                    "end": min(span.end_ms, LATEST_MS),
                    "step": name.startswith(" "),
                    "depth": (len(name) - len(name.lstrip())) // 2,
                    "detail": span.detail if isinstance(span, ClaudeSpan) else "",
                    "failed": isinstance(span, ClaudeSpan) and span.failed,
                }
                for name, span in drawn.rows()
            ]


def _start(state: ViewState) -> str:
    """Whether the endpoint's container and the run's sandbox were started for this run (cold), or before it (warm)."""
    container = {True: "container cold", False: "container warm", None: ""}[state.cold_start]
    sandbox = "" if state.sandbox is None else f"sandbox {'warm' if state.sandbox.warm else 'cold'}"
    return " · ".join(filter(None, [container, sandbox]))

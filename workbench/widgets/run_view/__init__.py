"""A live view of one run: status, elapsed time, output as it arrives, cancel.

Why batches: Jupyter's server drops messages beyond 1,000 a second, so events travel in one binary message every 50 ms.
Why a snapshot: a page that is opened or reloaded later says hello and gets what is kept.
"""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any, Literal, TypedDict

import anywidget
import traitlets

from modal_app.contract.events import Event, StatusEvent, StreamEvent
from workbench.claude_messages import shown
from workbench.client import Received
from workbench.run import Run

BATCH_S = 0.05
SNAPSHOT_EVENTS = 20_000
_HERE = Path(__file__).parent


class Hello(TypedDict):
    """From the page: it is there and has nothing yet."""

    type: Literal["hello"]


class Cancel(TypedDict):
    """From the page: end the run."""

    type: Literal["cancel"]


class Batch(TypedDict):
    """To the page: events follow in the message's buffer as a JSON array; `reset` when they are all that is kept."""

    type: Literal["events"]
    reset: bool


class RunView(anywidget.AnyWidget):  # type: ignore[misc]  # anywidget has no types
    """Shows a run as it goes. Its `run` goes on whether anybody looks or not."""

    _esm = _HERE / "run_view.js"
    _css = _HERE / "run_view.css"

    condition = traitlets.Unicode("waiting").tag(sync=True)
    run_id = traitlets.Unicode("").tag(sync=True)
    phase = traitlets.Unicode("").tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)
    code = traitlets.Unicode("").tag(sync=True)
    elapsed_ms = traitlets.Int(0).tag(sync=True)
    event_count = traitlets.Int(0).tag(sync=True)

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self._pending: list[Event] = []
        self._lock = threading.Lock()
        self._scheduled = False
        self.on_msg(self._on_message)
        self._stop = run.listen(self._on_event)
        run.on_end(self._send_pending)
        self._sync_state()

    def close(self) -> None:
        """Stop following the run. Idempotent."""
        self._stop()
        super().close()

    def _on_event(self, received: Received) -> None:
        """Runs in the background thread, for every event."""
        with self._lock:
            self._pending.append(received.event)
            if self._scheduled:
                return
            self._scheduled = True
        asyncio.get_running_loop().call_later(BATCH_S, self._send_pending)

    def _send_pending(self) -> None:
        with self._lock:
            events, self._pending = self._pending, []
            self._scheduled = False
        if events:
            self._send_events(events, reset=False)
        self._sync_state()

    def _sync_state(self) -> None:
        state = self.run.state
        with self.hold_sync():
            self.condition = state.condition
            self.run_id = state.run_id
            self.phase = state.phase
            self.message = state.message
            self.code = state.code
            self.elapsed_ms = state.elapsed_ms
            self.event_count = state.events

    def _on_message(self, _widget: object, content: object, _buffers: object) -> None:
        match content:
            case {"type": "hello"}:
                self._send_events(list(self.run.events[-SNAPSHOT_EVENTS:]), reset=True)
                self._sync_state()
            case {"type": "cancel"}:
                self.run.request_cancel()

    def _send_events(self, events: list[Event], *, reset: bool) -> None:
        batch: Batch = {"type": "events", "reset": reset}
        data = json.dumps([_drawn(event) for event in events]).encode()
        self.send(batch, buffers=[data])

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The live view, and for readers without a kernel what is known now."""
        live = super()._repr_mimebundle_(**options)
        bundle = live[0] if isinstance(live, tuple) else live or {}
        fallback = self.run._repr_mimebundle_()
        merged = {**bundle, **fallback}
        return (merged, live[1]) if isinstance(live, tuple) else merged


def _drawn(event: Event) -> dict[str, object]:
    """What the page needs of an event."""
    match event:
        case StreamEvent():
            return {"s": event.seq, "t": event.elapsed_ms, "c": event.channel, "x": shown(event)}
        case StatusEvent():
            return {"s": event.seq, "t": event.elapsed_ms, "c": "status", "x": f"{event.phase}: {event.message}\n"}
        case _ if event.type == "done":
            return {"s": event.seq, "t": event.elapsed_ms, "c": "done", "x": "done\n"}
        case _:
            text = f"{event.code}: {event.message}\n" if event.type == "error" else "\n"
            return {"s": event.seq, "t": event.elapsed_ms, "c": "error", "x": text}

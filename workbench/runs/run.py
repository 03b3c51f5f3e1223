"""A run as notebooks use it: it goes on in the background, can be watched live, asked for its output, and cancelled.

Memory is bounded: of its output, the last MAX_KEPT events are kept; `dropped` counts the others. Its lines are all in
`output`, which has a private temporary file for them.
"""

import html
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from modal_app.contract.events import TERMINAL, Channel, Event, StreamEvent, TerminalEvent
from modal_app.contract.proof import Check
from modal_app.contract.requests import Request
from workbench.runs.arrivals import Arrivals
from workbench.runs.background_loop import BackgroundLoop
from workbench.runs.claude_messages import standing, tail
from workbench.runs.client import AsyncClient, EventStream, Received, RequestRefusedError, StreamLostError
from workbench.runs.measured import NOTHING, Measured
from workbench.runs.output_index import OutputIndex
from workbench.runs.timeline import Timeline, timeline
from workbench.runs.view_state import ViewState, lost, reduce, refused
from workbench.text.plain_text import one_line
from workbench.text.static_html import preformatted
from workbench.views import view_of

if TYPE_CHECKING:
    from workbench.widgets.run_view import RunView

MAX_KEPT = 100_000
_NOT_ENDED = "the run did not end within {:g} seconds and goes on: wait again, or longer with timeout_s"
PROOF_S = 20.0  # the wait for an archive, which is written after the run's end

Listener = Callable[[Received], None]
Proof = Callable[[str, float], Sequence[Check]]


class Run:
    """One run. Made by `Workbench.launch` or `Workbench.attach`. Only `wait`, `follow`, `cancel` and `checks` block.

    `request` is None for a run that was started elsewhere.
    """

    def __init__(
        self,
        client: AsyncClient,
        loop: BackgroundLoop,
        request: Request | None,
        *,
        proof: Proof,
        fault: "Callable[[Run], str]" = lambda _run: "",
        measure: "Callable[[Run], Measured]" = lambda _run: NOTHING,
        run_id: str = "",
        key: str = "",
    ) -> None:
        self.request = request
        self._proof = proof
        self._find_fault = fault
        self._fault: str | None = None
        self._measure = measure
        self.arrivals = Arrivals(since_s=time.monotonic() if run_id else float("-inf"))
        """How late each event arrived here; of a run that was attached to, those that came while it was watched."""
        self.began_at_ms = int(time.time() * 1000)
        """When it was asked for here, in Unix time; `ended_at_ms` is when its end was known here, or 0."""
        self.ended_at_ms = 0
        self._attached_to = run_id
        self._key = key
        self._stream: EventStream | None = None
        self.started_at = time.monotonic()
        self._client = client
        self._loop = loop
        self._state = ViewState()
        self._kept: deque[Received] = deque()
        self._milestones: list[Received] = []
        self._dropped = 0
        self.output = OutputIndex()
        """The lines of its output, also those of events that are no longer kept."""
        self._terminal: TerminalEvent | None = None
        self._failure: RequestRefusedError | StreamLostError | None = None
        self._listeners: list[Listener] = []
        self._end_listeners: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._future: Future[None] = loop.submit(self._follow())

    @property
    def run_id(self) -> str:
        """The endpoint's id of the run, empty until its first event."""
        return self._state.run_id

    @property
    def action(self) -> str:
        """The request's action; empty for a run that was started elsewhere."""
        return self.request.action if self.request is not None else ""

    @property
    def state(self) -> ViewState:
        """What is known of the run now."""
        return self._state

    @property
    def received(self) -> tuple[Received, ...]:
        """The events so far, each with the time of its arrival; the oldest output is dropped when there is too much."""
        with self._changed:
            return tuple(sorted((*self._milestones, *self._kept), key=lambda one: one.event.seq))

    @property
    def events(self) -> tuple[Event, ...]:
        """The events so far; the oldest output is dropped when there is too much."""
        return tuple(one.event for one in self.received)

    @property
    def dropped(self) -> int:
        """How many events of output are no longer kept here."""
        return self._dropped

    @property
    def terminal(self) -> TerminalEvent | None:
        """The terminal event; None while the run has not ended."""
        return self._terminal

    @property
    def reconnects(self) -> int:
        """How often the stream broke and was resumed."""
        return self._stream.reconnects if self._stream is not None else 0

    @property
    def reconnecting(self) -> bool:
        """Whether the stream is broken and being resumed now."""
        return self._stream is not None and self._stream.reconnecting and not self._state.ended

    @property
    def pace(self) -> float:
        """How fast the run's time passes: 1 until it has ended, then 0. (A playback has other speeds.)"""
        return 0.0 if self._state.ended or self._state.condition == "waiting" else 1.0

    @property
    def timeline(self) -> Timeline:
        """How long each phase and step has taken so far."""
        return timeline(self.events)

    @property
    def fault(self) -> str:
        """The fault rule of the local cloud that has ended the run; "" where none has. Asks the cloud once."""
        if not self._state.ended or self._state.condition == "done":
            return ""
        if self._fault is None:
            self._fault = self._find_fault(self)
        return self._fault

    def measured(self) -> Measured:
        """What the run used of memory and processors over time, once it has ended. Blocks for a moment."""
        return self._measure(self) if self._state.ended else NOTHING

    @property
    def reason(self) -> str:
        """Why the run failed, safe to print: the fault rule, else the program's last words, else the message; or ""."""
        state = self._state
        return (self.fault or state.reason or one_line(state.message)) if state.code else ""

    def text(self, channel: Channel = "stdout") -> str:
        """What the job printed to a channel, as far as it is kept; without text that the model has replaced."""
        pieces = (event for event in standing(self.events) if isinstance(event, StreamEvent))
        return "".join(event.text for event in pieces if event.channel == channel)

    def wait(self, timeout_s: float = 900) -> TerminalEvent:
        """Block until the run has ended and return its terminal event.

        Raises TimeoutError after `timeout_s` seconds (the run goes on), RequestRefusedError or StreamLostError.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._state.ended:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(_NOT_ENDED.format(timeout_s))
                self._changed.wait(min(left, 0.5))  # short, so that an interrupt of the kernel is seen
        if self._failure is not None:
            raise self._failure
        assert self._terminal is not None
        return self._terminal

    def follow(self, timeout_s: float | None = 900) -> Iterator[Event]:
        """Block, and yield events as they arrive, beginning with the first one that is kept. Raises as `wait` does.

        Without a `timeout_s` it follows as long as the endpoint lets the run go on; a stream that falls silent is lost.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        seen = 0
        while True:
            ended = self._state.ended  # read first: what comes in between is seen in the next round
            fresh = [one for one in self.received if one.event.seq > seen]
            for one in fresh:
                seen = one.event.seq
                yield one.event
            if fresh:
                continue
            if ended:
                self.wait(0)
                return
            if time.monotonic() > deadline:
                raise TimeoutError(_NOT_ENDED.format(timeout_s))
            with self._changed:
                self._changed.wait(0.5)

    def cancel(self, timeout_s: float = 60) -> None:
        """Cancel the run; returns when its sandbox is gone. A run that has ended already stays as it is."""
        if self._state.ended:
            return
        if not self.run_id:
            self._future.cancel()  # the run's id is not known yet, so all there is to do is to stop reading
            return
        try:
            self._loop.call(self._client.cancel(self.run_id), timeout_s=timeout_s)
        except RequestRefusedError as error:
            if error.status != 404:
                raise
        self.wait(timeout_s)

    def checks(self, wait_s: float = PROOF_S) -> Sequence[Check]:
        """The checks of the run by its archive, for which this waits up to `wait_s` seconds.

        Raises RunNotArchivedError, and TargetUnavailableError where archives cannot be read.
        """
        return self._proof(self.run_id, wait_s)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on, in the background thread; returns a function that ends that."""
        with self._changed:
            self._listeners.append(listener)

        def stop() -> None:
            with self._changed:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def on_end(self, listener: Callable[[], None]) -> None:
        """Call `listener` once when the run has ended; immediately if it has ended already."""
        with self._changed:
            if not self._state.ended:
                self._end_listeners.append(listener)
                return
        listener()

    def _take(self, received: Received) -> None:
        event = received.event
        with self._changed:
            self._state = reduce(self._state, event)
            self.arrivals.add(event, received.at)
            self.output.add(event)
            if isinstance(event, StreamEvent):
                self._kept.append(received)
                if len(self._kept) > MAX_KEPT:
                    self._kept.popleft()
                    self._dropped += 1
            else:
                self._milestones.append(received)
            if isinstance(event, TERMINAL):
                self._terminal = event
            listeners = tuple(self._listeners)
            self._changed.notify_all()
        for listener in listeners:
            listener(received)
        if self._terminal is not None:
            self._end()

    async def _follow(self) -> None:
        try:
            async with self._events() as events:
                self._stream = events
                async for received in events:
                    self._take(received)
        except (RequestRefusedError, StreamLostError) as error:
            self._fail(error, str(error.code), str(error))
        except BaseException as error:
            failure = StreamLostError(type(error).__name__, run_id=self.run_id or None, last_seq=self._state.events)
            self._fail(failure, str(failure.code), str(failure))
            raise

    def _events(self) -> AbstractAsyncContextManager[EventStream]:
        if self.request is None:
            return self._client.attach(self._attached_to)
        return self._client.stream(self.request, key=self._key or None)

    def _fail(self, failure: RequestRefusedError | StreamLostError, code: str, message: str) -> None:
        with self._changed:
            self._failure = failure
            become = refused if isinstance(failure, RequestRefusedError) else lost
            self._state = become(self._state, code, message)
            self._changed.notify_all()
        self._end()

    def _end(self) -> None:
        with self._changed:
            self.ended_at_ms = int(time.time() * 1000)
            listeners, self._end_listeners = self._end_listeners, []
        for listener in listeners:
            listener()

    def __repr__(self) -> str:
        state = self._state
        reason = f", {self.reason} ({state.code})" if state.code else ""
        return f"Run({self.run_id or 'not accepted yet'}, {state.condition}{reason})"

    def view(self) -> "RunView":
        """A live view for JupyterLab."""
        view: RunView = view_of("run", self)
        return view

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": self._plain(), "text/html": self._html()}

    def _headline(self) -> str:
        state = self._state
        end = f" ({state.code})" if state.code else ""
        code = f", exit code {state.exit_code}" if state.exit_code is not None else ""
        return f"{state.condition}{end}{code}, {state.elapsed_ms} ms, {state.events} events"

    def _plain(self) -> str:
        return "\n".join(
            [
                f"Run {self.run_id or '(not accepted yet)'}: {self._headline()}",
                *self.timeline.lines(),
                tail(self.events),
            ]
        )

    def _html(self) -> str:
        bars = preformatted("\n".join(self.timeline.lines()))
        return (
            f'<div class="workbench-run"><strong>Run {html.escape(self.run_id or "(not accepted yet)")}</strong>: '
            f"{html.escape(self._headline())}{bars}{preformatted(tail(self.events))}</div>"
        )

"""What a run view can show: a live run, an archived run, or a recording that is being played."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

from modal_app.contract.events import Event
from modal_app.contract.proof import Check
from modal_app.contract.requests import Request
from workbench.runs.archived_run import ArchivedRun
from workbench.runs.arrivals import Arrivals
from workbench.runs.measured import Measured
from workbench.runs.output_index import OutputIndex
from workbench.runs.run import Listener
from workbench.runs.timeline import Timeline
from workbench.runs.view_state import ViewState, lost, reduce


class Source(Protocol):
    """The interface of a run that a view needs."""

    @property
    def state(self) -> ViewState:
        """What is known of the run now."""

    @property
    def events(self) -> Sequence[Event]:
        """The events so far, as far as they are kept."""

    @property
    def output(self) -> OutputIndex:
        """The lines of all its output so far; another object when they are not a continuation of what they were."""

    @property
    def timeline(self) -> Timeline:
        """Where the time went."""

    @property
    def reconnects(self) -> int:
        """How often the stream broke and was resumed."""

    @property
    def reconnecting(self) -> bool:
        """Whether the stream is broken and being resumed now."""

    @property
    def pace(self) -> float:
        """How fast the run's time passes: 1 as on the clock, 0 when it stands still."""

    @property
    def request(self) -> Request | None:
        """What the run was asked; None when that is not known."""

    @property
    def arrivals(self) -> Arrivals | None:
        """How late its events arrived here; None where that is not known."""

    def measured(self) -> Measured:
        """What it used of memory and processors over time, once it has ended. Blocks."""

    @property
    def fault(self) -> str:
        """The fault rule that has ended it, as far as the local cloud remembers it; else "". May block."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on, in any thread; returns a function that ends that."""

    def on_end(self, listener: Callable[[], None]) -> None:
        """Call `listener` once when no more events will come; immediately if that is so already."""

    def cancel(self) -> None:
        """Cancel the run, and return when its end is confirmed."""

    def checks(self) -> Sequence[Check]:
        """The checks of the run's proof. Blocks; raises an exception when there is no archive to check."""


class Ended:
    """An archived run as a source: all its events are known, and no more will come."""

    arrivals = None
    reconnects = 0
    reconnecting = False
    pace = 0.0

    def __init__(self, run: ArchivedRun) -> None:
        self.run = run

    @cached_property
    def state(self) -> ViewState:
        """The state after the last event in the archive."""
        state = ViewState(run_id=self.run.run_id)
        for event in self.run.events:
            state = reduce(state, event)
        if not state.ended:
            state = lost(state, "unreadable", self.run.problem or "its archive does not tell how the run ended")
        return state

    @property
    def events(self) -> Sequence[Event]:
        """The events that can be read from the archive."""
        return self.run.events

    @cached_property
    def output(self) -> OutputIndex:
        """The lines of all that can be read from the archive."""
        return OutputIndex(self.run.events)

    def close(self) -> None:
        """Forget the lines: nobody looks at them any more. Idempotent."""
        if "output" in self.__dict__:
            self.output.close()

    @property
    def request(self) -> Request | None:
        """What the run was asked, as far as the archive has it."""
        return self.run.asked

    def measured(self) -> Measured:
        """What it used, as far as the platform still tells it."""
        return self.run.measured()

    @property
    def fault(self) -> str:
        """The fault rule that has ended it."""
        return self.run.fault

    @property
    def timeline(self) -> Timeline:
        """Where the time went."""
        return self.run.timeline

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Do nothing: no more events will come."""
        return lambda: None

    def on_end(self, listener: Callable[[], None]) -> None:
        """Call `listener` at once: the run has ended."""
        listener()

    def cancel(self) -> None:
        """Do nothing: the run has ended."""

    def checks(self) -> Sequence[Check]:
        """The checks of the archive."""
        return self.run.checks()

"""What a run view can look at: a live run, an ended one as its archive tells it, a recording that is being played."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

from modal_app.contract.events import Event
from modal_app.contract.proof import Check
from workbench.runs.archived_run import ArchivedRun
from workbench.runs.run import Listener
from workbench.runs.timeline import Timeline
from workbench.runs.view_state import ViewState, lost, reduce


class Source(Protocol):
    """A run as a view sees it."""

    @property
    def state(self) -> ViewState:
        """What is known now."""

    @property
    def events(self) -> Sequence[Event]:
        """The events that came so far, as far as they are kept."""

    @property
    def timeline(self) -> Timeline:
        """Where the time went."""

    @property
    def reconnects(self) -> int:
        """How often the stream was resumed."""

    @property
    def reconnecting(self) -> bool:
        """Whether it is being resumed now."""

    @property
    def pace(self) -> float:
        """How fast its time runs: 1 as on the clock, 0 when it stands still."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on, in any thread; returns a way to stop."""

    def on_end(self, listener: Callable[[], None]) -> None:
        """Call `listener` once when nothing more will come, at once when that is so already."""

    def cancel(self) -> None:
        """End it, and return when that is confirmed."""

    def checks(self) -> Sequence[Check]:
        """What code finds when it checks the run. Blocks; raises when there is nothing to check it by."""


class Ended:
    """An archived run as a source: everything is known and nothing comes."""

    reconnects = 0
    reconnecting = False
    pace = 0.0

    def __init__(self, run: ArchivedRun) -> None:
        self.run = run

    @cached_property
    def state(self) -> ViewState:
        """What the archive tells."""
        state = ViewState(run_id=self.run.run_id)
        for event in self.run.events:
            state = reduce(state, event)
        if not state.ended:
            state = lost(state, "unreadable", self.run.problem or "its archive does not tell how the run ended")
        return state

    @property
    def events(self) -> Sequence[Event]:
        """All that can be read."""
        return self.run.events

    @property
    def timeline(self) -> Timeline:
        """Where the time went."""
        return self.run.timeline

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Nothing comes."""
        return lambda: None

    def on_end(self, listener: Callable[[], None]) -> None:
        """It has ended."""
        listener()

    def cancel(self) -> None:
        """It has ended, and stays as it is."""

    def checks(self) -> Sequence[Check]:
        """What code finds in the archive."""
        return self.run.checks()

"""The clocks of one cloud: one of the whole, and one of each app, which follows it and can be moved further alone.

A move may be lent: it is taken back when nobody renews it, so that whoever is killed leaves no clock ahead.
"""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass

from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.base.ids import new_id

MAX_LENT = 100
WHOLE = ""
"""In the place of an app's id: the whole cloud."""


@dataclass
class _Lent:
    """A move that is taken back when its lease of `lease_s` real seconds is over."""

    app_id: str
    seconds: float
    lease_s: float
    end: asyncio.TimerHandle


class Clocks:
    """To be used from one event loop. `app_of` gives the id of the app that a function belongs to."""

    def __init__(self, app_of: Callable[[str], str]) -> None:
        self.whole = Clock()
        self._app_of = functools.lru_cache(maxsize=10_000)(app_of)  # a function stays in its app
        self._apps: dict[str, Clock] = {}
        self._lent: dict[str, _Lent] = {}

    def of(self, app_id: str) -> Clock:
        """The clock of an app, or with `WHOLE` the whole cloud's."""
        if app_id == WHOLE:
            return self.whole
        if app_id not in self._apps:
            self._apps[app_id] = Clock(self.whole)
        return self._apps[app_id]

    def of_function(self, function_id: str) -> Clock:
        """The clock of a function's app. Raises as `app_of` does."""
        return self.of(self._app_of(function_id))

    def ahead(self) -> dict[str, Clock]:
        """The clocks of apps that are ahead of the whole cloud's, by the apps' ids."""
        return {app_id: clock for app_id, clock in self._apps.items() if clock.own_offset_s}

    def lend(self, app_id: str, seconds: float, *, lease_s: float) -> str:
        """Move a clock for as long as the move is renewed every `lease_s` real seconds; returns the move's id.

        Raises ValueError as `Clock.advance` does, and when too many moves are lent.
        """
        if len(self._lent) >= MAX_LENT:
            raise ValueError(f"{MAX_LENT} moves of clocks are lent already: wait for the end of one")
        self.of(app_id).advance(seconds)
        move_id = new_id("cm", length=8)
        self._lent[move_id] = _Lent(app_id, seconds, lease_s, self._ending(move_id, lease_s))
        return move_id

    def renew(self, move_id: str) -> bool:
        """Let a lent move last for another lease; False when it has been taken back."""
        lent = self._lent.get(move_id)
        if lent is None:
            return False
        lent.end.cancel()
        lent.end = self._ending(move_id, lent.lease_s)
        return True

    def take_back(self, move_id: str) -> bool:
        """Take a lent move back; False when it has been already."""
        lent = self._lent.pop(move_id, None)
        if lent is None:
            return False
        lent.end.cancel()
        self.of(lent.app_id).set_back(lent.seconds)
        return True

    def set_back(self, app_id: str) -> None:
        """Take back all by which a clock was moved, also what is lent."""
        for move_id in [move_id for move_id, lent in self._lent.items() if lent.app_id == app_id]:
            self.take_back(move_id)
        clock = self.of(app_id)
        clock.set_back(clock.own_offset_s)

    def forget(self, app_id: str) -> None:
        """An app has ended: its clock is ahead no longer."""
        self.set_back(app_id)
        self._apps.pop(app_id).leave()

    def close(self) -> None:
        """Take back what is lent."""
        for move_id in list(self._lent):
            self.take_back(move_id)

    def _ending(self, move_id: str, lease_s: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(lease_s, self.take_back, move_id)

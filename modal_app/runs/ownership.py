"""Ownership: a container owns the runs that it executes for as long as it can show that it is alive.

An owner puts a beat, a growing number and the time, into the shared records. It may write to its runs' logs only while
its last confirmed beat is younger than the lease, by its own monotonic clock. Other containers take it for dead only
when they have seen the same beat twice and it is older than the lease and a margin. So an owner stops writing to its
logs before anybody else begins.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from modal_app.runs.shared_state import SharedState
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS

_log = structlog.get_logger(__name__)

_MARGIN_S = 3.0  # by how much the clocks of two containers may differ
_BEATS = 6  # per lease
_BEAT_DEADLINE = 0.5  # of a lease, for one beat to be confirmed


class Ownership:
    """One container as an owner of runs. `start` begins to beat, `aclose` stops.

    `on_lost` is called once if the lease of `lease_s` seconds runs out. A lease that has run out is never taken up
    again, because others may have closed the runs: the container makes another Ownership, under another name.
    """

    def __init__(self, state: SharedState, *, lease_s: float, on_lost: Callable[[], None]) -> None:
        self.owner = secrets.token_hex(8)
        self._dict = state.records
        self._lease_s = lease_s
        self._on_lost = on_lost
        self._beat_at = float("-inf")
        self._beats = 0
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    @property
    def holds(self) -> bool:
        """Whether this owner may write to its runs' logs now."""
        return not self._lost and time.monotonic() - self._beat_at < self._lease_s

    async def is_lost(self) -> bool:
        """Whether the lease has run out. If so, returns only after `on_lost` was called, within one lease."""
        if self.holds:
            return False
        if self._task is not None:
            await asyncio.wait([self._task])
        return True

    async def start(self) -> None:
        """Put the first beat, and go on beating in a background task. Platform errors of the first beat are raised."""
        if self._task is None:
            await self._beat()
            self._task = asyncio.create_task(self._go_on())

    async def aclose(self) -> None:
        """Stop beating and remove the beat, so that others need not wait for the lease to run out. Idempotent."""
        self._lost = True
        if self._task is not None:
            self._task.cancel()
            with suppress(*PLATFORM_ERRORS):
                await asyncio.wait_for(self._dict.pop.aio(_name(self.owner), None), self._lease_s * _BEAT_DEADLINE)

    async def _beat(self) -> None:
        at, first = time.monotonic(), self._beats == 0  # the lease counts from before the beat is sent
        self._beats += 1
        beat = f"{self._beats} {time.time():.3f}"
        await asyncio.wait_for(self._dict.put.aio(_name(self.owner), beat), self._lease_s * _BEAT_DEADLINE)
        if first or self.holds:  # a confirmation after the lease has run out saves nothing: others may have acted
            self._beat_at = at

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / _BEATS)
            if not self.holds:
                break
            try:
                await self._beat()
            except PLATFORM_ERRORS as error:
                _log.warning("owner.beat_failed", reason=type(error).__name__)
        _log.error("owner.lease_lost", owner=self.owner)
        self._lost = True
        self._on_lost()


class Pulse:
    """Tells whether an owner is alive, as seen from another container."""

    def __init__(self, state: SharedState, *, lease_s: float) -> None:
        self._dict = state.records
        self._lease_s = lease_s

    async def is_dead(self, owner: str) -> bool:
        """Whether an owner is dead and can write no more. Platform errors are raised.

        Takes a third of a lease when it seems dead, for a second look.
        """
        first = await self._dict.get.aio(_name(owner))
        if not self._stale(first):
            return False
        await asyncio.sleep(self._lease_s / _BEATS * 2)
        second = await self._dict.get.aio(_name(owner))
        return bool(first == second) and self._stale(second)

    def _stale(self, beat: object) -> bool:
        """Whether a beat is older than a lease and the margin, or missing: the owner has left, or never began."""
        if not isinstance(beat, str):
            return True
        return time.time() - float(beat.split()[1]) > self._lease_s + _MARGIN_S


def _name(owner: str) -> str:
    return f"owner/{owner}"

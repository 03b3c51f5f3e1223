"""Who executes a run: one container, as long as it can show that it lives.

An owner counts up a number in the shared records. It may write to its runs' logs only while its last beat that was
taken is younger than the lease, by its own monotonic clock; others take it for dead only after they have seen its
number stand still, and its beat is older than the lease and a margin. So nobody writes to a log beside its owner.
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

_MARGIN_S = 3.0  # between two containers' clocks
_BEATS = 6  # in a lease
_BEAT_DEADLINE = 0.5  # of a lease


class Ownership:
    """One container as an owner. `start` beats until `aclose`; `on_lost` is called once when the lease is over.

    One that is lost stays lost: others may have ended its runs. The container goes on as another owner.
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
        """Whether this container may write to its runs' logs now."""
        return not self._lost and time.monotonic() - self._beat_at < self._lease_s

    async def is_lost(self) -> bool:
        """Whether the lease is over; then waits until its runs have been told, at most for a lease."""
        if self.holds:
            return False
        if self._task is not None:
            await asyncio.wait([self._task])
        return True

    async def start(self) -> None:
        """Beat for the first time, and go on in the background. Platform errors of the first beat are raised."""
        if self._task is None:
            await self._beat()
            self._task = asyncio.create_task(self._go_on())

    async def aclose(self) -> None:
        """Stop beating: this container has no runs any more. Idempotent."""
        self._lost = True
        if self._task is not None:
            self._task.cancel()
            with suppress(*PLATFORM_ERRORS):
                await asyncio.wait_for(self._dict.pop.aio(_name(self.owner), None), self._lease_s * _BEAT_DEADLINE)

    async def _beat(self) -> None:
        at, first = time.monotonic(), self._beats == 0  # before it is sent: the lease counts from here
        self._beats += 1
        beat = f"{self._beats} {time.time():.3f}"
        await asyncio.wait_for(self._dict.put.aio(_name(self.owner), beat), self._lease_s * _BEAT_DEADLINE)
        if first or self.holds:  # an answer that comes after the lease saves nothing: others may have acted
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
    """Tells whether owners are alive, as seen from another container."""

    def __init__(self, state: SharedState, *, lease_s: float) -> None:
        self._dict = state.records
        self._lease_s = lease_s

    async def is_dead(self, owner: str) -> bool:
        """Whether an owner can write no more; looks twice when it seems so. Platform errors are raised."""
        first = await self._dict.get.aio(_name(owner))
        if not self._stale(first):
            return False
        await asyncio.sleep(self._lease_s / _BEATS * 2)
        second = await self._dict.get.aio(_name(owner))
        return bool(first == second) and self._stale(second)

    def _stale(self, beat: object) -> bool:
        """Whether a beat is older than a lease; an owner without one has left, or never came to its first."""
        if not isinstance(beat, str):
            return True
        return time.time() - float(beat.split()[1]) > self._lease_s + _MARGIN_S


def _name(owner: str) -> str:
    return f"owner/{owner}"

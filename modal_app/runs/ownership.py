"""Ownership: a container owns the runs that it executes for as long as it can show that it is alive.

An owner puts a beat, a growing number and the time, into the shared records. It may write to its runs' logs only while
its last confirmed beat is younger than the lease, by its own monotonic clock. Other containers suspect that it is dead
only when they have seen the same beat twice and it is older than the lease and a margin.

An owner that was late, because its processor or the platform was, cannot know whether it still is an owner, and others
cannot know whether it is dead. The shared records decide, once for each time: the owner puts that it is back, the
others that it is dead, under a key that only the first of them gets. Until the owner knows, it writes nothing.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from modal_app.runs.run_records import put_first
from modal_app.runs.shared_state import SharedState
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS, retrying

_log = structlog.get_logger(__name__)

_MARGIN_S = 3.0  # by how much the clocks of two containers may differ
_BEATS = 6  # per lease
_BEAT_DEADLINE = 0.5  # of a lease, for one beat to be confirmed
_AGAIN_S = 0.2
_AWAY_S = 900.0  # a platform that decides nothing for so long: the runs are given up
_DEAD = "dead"


class Ownership:
    """One container as an owner of runs. `start` begins to beat, `aclose` stops.

    `on_lost` is called once if others take this owner for dead. That is for good, because they may have closed the
    runs: the container makes another Ownership, under another name.
    """

    def __init__(self, state: SharedState, *, lease_s: float, on_lost: Callable[[], None]) -> None:
        self.owner = secrets.token_hex(8)
        self._dict = state.records
        self._lease_s = lease_s
        self._on_lost = on_lost
        self._beat_at = float("-inf")
        self._beats = 0
        self._returns = 0
        self._lost = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def lost(self) -> bool:
        """Whether others have taken this owner for dead, or it has left. Before that it may only be late."""
        return self._lost

    async def may_write(self) -> bool:
        """Whether this owner may write to its runs' logs now; waits while that is not decided."""
        while not self._lost and not self._holds:
            await self._changed.wait()
        return not self._lost

    async def is_lost(self) -> bool:
        """As `lost`, but waits up to one lease while that is not decided. Then raises TimeoutError."""
        return not await asyncio.wait_for(self.may_write(), self._lease_s)

    async def start(self) -> None:
        """Put the first beat, and go on beating in a background task. Platform errors of the first beat are raised."""
        if self._task is None:
            await self._beat()
            self._task = asyncio.create_task(self._go_on())

    async def aclose(self) -> None:
        """Stop beating and remove the beat, so that others need not wait for the lease to run out. Idempotent."""
        self._lost = True
        self._notify()
        if self._task is not None:
            self._task.cancel()
            with suppress(*PLATFORM_ERRORS):
                await asyncio.wait_for(self._dict.pop.aio(_beat(self.owner), None), self._lease_s * _BEAT_DEADLINE)

    @property
    def _holds(self) -> bool:
        return not self._lost and time.monotonic() - self._beat_at < self._lease_s

    async def _beat(self) -> None:
        at, first = time.monotonic(), self._beats == 0  # the lease counts from before the beat is sent
        self._beats += 1
        beat = f"{self._beats} {time.time():.3f} {self._returns}"
        await asyncio.wait_for(self._dict.put.aio(_beat(self.owner), beat), self._lease_s * _BEAT_DEADLINE)
        if first or self._holds:  # a confirmation after the lease has run out saves nothing: others may have acted
            self._beat_at = at
            self._notify()

    async def _go_on(self) -> None:
        try:
            await self._beat_on()
        except Exception:  # noqa: BLE001  # whoever waits for a decision must not wait for ever
            _log.exception("owner.broken")
        self._lost = True
        self._notify()
        self._on_lost()

    async def _beat_on(self) -> None:
        """Beat until others have taken this owner for dead."""
        while True:
            await asyncio.sleep(self._lease_s / _BEATS)
            if not self._holds and not await self._come_back():
                return
            try:
                await self._beat()
            except PLATFORM_ERRORS as error:
                _log.warning("owner.beat_failed", reason=type(error).__name__)

    async def _come_back(self) -> bool:
        """Have it decided whether others have taken this owner for dead while it was late; returns whether it lives."""
        late_s, decided, lives = round(time.monotonic() - self._beat_at, 1), "", False
        _log.warning("owner.late", owner=self.owner, silent_s=late_s)
        with suppress(*PLATFORM_ERRORS):
            async for attempt in retrying(pause_s=_AGAIN_S, within_s=_AWAY_S):
                with attempt:
                    while not self._holds and decided != _DEAD:  # it may be late again, or find what it put before
                        at, mine = time.monotonic(), f"back {time.time():.3f} {self._returns + 1}"
                        putting = put_first(self._dict, _decision(self.owner, self._returns), mine)
                        decided = await asyncio.wait_for(putting, self._lease_s)
                        self._returns += decided != _DEAD
                        self._beat_at = at if decided == mine else self._beat_at
                    lives = decided != _DEAD
        if not lives:
            _log.error("owner.lost", owner=self.owner, silent_s=late_s, given_up=decided != _DEAD)
            return False
        _log.warning("owner.back", owner=self.owner, silent_s=late_s)
        self._notify()
        return True

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Pulse:
    """Tells whether an owner is alive, as seen from another container."""

    def __init__(self, state: SharedState, *, lease_s: float) -> None:
        self._dict = state.records
        self._lease_s = lease_s

    async def is_dead(self, owner: str) -> bool:
        """Whether an owner is dead and can write no more: it has left, or this call decides it.

        Takes a third of a lease when it seems dead, for a second look. Platform errors are raised.
        """
        first = await self._last_sign(owner)
        if first == _DEAD or not self._stale(first):
            return first == _DEAD
        await asyncio.sleep(self._lease_s / _BEATS * 2)
        second = await self._last_sign(owner)
        if second == _DEAD:
            return True
        if first != second or not self._stale(second):
            return False
        if second is None:
            return True
        return await put_first(self._dict, _decision(owner, _returns(second)), _DEAD) == _DEAD

    async def _last_sign(self, owner: str) -> str | None:
        """The last sign of an owner's life, a beat or that it was back; "dead" if that is decided, None if it left."""
        sign: str | None = await self._dict.get.aio(_beat(owner))
        while sign is not None and sign != _DEAD and self._stale(sign):
            decided = await self._dict.get.aio(_decision(owner, _returns(sign)))
            if decided is None:
                break
            sign = str(decided)
        return sign

    def _stale(self, sign: str | None) -> bool:
        """Whether a sign of life is older than a lease and the margin, or missing."""
        return sign is None or time.time() - float(sign.split()[1]) > self._lease_s + _MARGIN_S


def _returns(sign: str) -> int:
    """How often an owner had come back by a sign of its life."""
    return int(sign.split()[2])


def _beat(owner: str) -> str:
    return f"owner/{owner}"


def _decision(owner: str, returns: int) -> str:
    """The key for whether an owner that has come back so many times comes back once more, or is dead."""
    return f"owner/{owner}/{returns}"

"""Turns to start sandboxes: who has one, who waits, how many there are. And a run's own time, which waits with it."""

import asyncio
from contextlib import suppress

import pytest

from modal_app.runs.own_time import OwnTime
from modal_app.runs.starts import FIRST, LEAST, Starts


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


class Crowd:
    """Runs that start sandboxes: each one's start ends when it is told to."""

    def __init__(self, *, most: int = 60) -> None:
        self.clock = Hands()
        self.starts = Starts(quick_s=5, slow_s=10, most=most, clock=self.clock)
        self.started: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.leave_with: dict[int, tuple[int, ...]] = {}
        """Who is cancelled as soon as a start of these has ended, before anybody else does anything."""
        self._ends: list[asyncio.Future[None]] = []

    async def come(self, count: int) -> None:
        """So many more ask for a turn."""
        for _ in range(count):
            number = len(self.tasks)
            self._ends.append(asyncio.get_running_loop().create_future())
            self.tasks.append(asyncio.create_task(self._start(number)))
        await settle()

    async def _start(self, number: int) -> None:
        async with self.starts.turn():
            self.started.append(number)
            await self._ends[number]
        for other in self.leave_with.get(number, ()):
            self.tasks[other].cancel()

    async def end(self, *numbers: int, after_s: float, failed: bool = False) -> None:
        """The starts of these end, `after_s` seconds from now."""
        self.clock.at += after_s
        for number in numbers:
            if failed:
                self._ends[number].set_exception(RuntimeError("no sandbox"))
            else:
                self._ends[number].set_result(None)
        await settle()

    async def leave(self, *numbers: int) -> None:
        """These are cancelled."""
        for number in numbers:
            self.tasks[number].cancel()
        await settle()


async def settle() -> None:
    """Let everything happen that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_turns_are_given_in_the_order_in_which_runs_have_come() -> None:
    crowd = Crowd()
    await crowd.come(500)
    assert crowd.started == list(range(FIRST))
    assert crowd.starts.ahead == 500
    await crowd.end(0, after_s=7)  # neither quick nor slow
    assert crowd.started == list(range(FIRST + 1))
    for number in range(1, 500):
        await crowd.end(number, after_s=0.01)
    assert crowd.started == list(range(500))
    assert crowd.starts.ahead == 0


async def test_quick_starts_make_more_turns_and_slow_ones_fewer() -> None:
    crowd = Crowd(most=FIRST + 2)
    await crowd.come(100)
    await crowd.end(0, after_s=1)
    assert crowd.starts.limit == FIRST + 1
    assert len(crowd.started) == FIRST + 2  # in place of the one that is done, and one more
    await crowd.end(1, 2, 3, after_s=1)
    assert crowd.starts.limit == FIRST + 2  # the most
    await crowd.end(*range(4, 8), after_s=20)
    assert crowd.starts.limit == FIRST - 2
    await crowd.end(*crowd.started[8:], after_s=20)
    assert crowd.starts.limit == LEAST
    for number in range(len(crowd.tasks)):
        if number not in crowd.started or not crowd.tasks[number].done():
            await crowd.end(number, after_s=11)
    assert (crowd.starts.limit, len(crowd.started)) == (LEAST, 100)


async def test_a_calm_time_and_a_quick_failure_tell_nothing() -> None:
    crowd = Crowd()
    for number in range(50):
        await crowd.come(1)
        await crowd.end(number, after_s=0.1)
    assert crowd.starts.limit == FIRST
    await crowd.come(FIRST + 1)
    await crowd.end(50, after_s=0.1, failed=True)
    assert crowd.starts.limit == FIRST
    assert len(crowd.started) == 50 + FIRST + 1
    with pytest.raises(RuntimeError, match="no sandbox"):
        await crowd.tasks[50]
    await crowd.end(51, after_s=30, failed=True)
    assert crowd.starts.limit == FIRST - 1  # a failure that took long does
    with suppress(RuntimeError):
        await crowd.tasks[51]
    await crowd.leave(*range(52, 59))


async def test_whoever_leaves_takes_no_turn_away() -> None:
    crowd = Crowd()
    await crowd.come(FIRST + 4)
    await crowd.leave(FIRST, FIRST + 2)  # they wait
    await crowd.leave(0)  # this one starts
    assert crowd.started == [*range(FIRST), FIRST + 1]
    crowd.tasks[1].cancel()  # and this one gives its turn to one that leaves at the same moment
    crowd.tasks[FIRST + 3].cancel()
    await settle()
    await crowd.come(1)
    assert crowd.started == [*range(FIRST), FIRST + 1, FIRST + 4]
    assert crowd.starts.ahead == FIRST  # all turns are taken, and nobody waits
    await crowd.leave(*range(len(crowd.tasks)))
    assert crowd.starts.ahead == 0


async def test_a_turn_that_is_given_to_one_that_leaves_is_given_on() -> None:
    """It is cancelled after it was given the turn, and before it could take it."""
    crowd = Crowd(most=1)
    crowd.leave_with[0] = (1,)
    await crowd.come(3)
    await crowd.end(0, after_s=7)
    assert crowd.tasks[1].cancelled()
    assert crowd.started == [0, 2]
    await crowd.end(2, after_s=1)
    assert crowd.starts.ahead == 0


def test_a_runs_own_time_stands_still_while_it_waits() -> None:
    clock = Hands()
    own = OwnTime(clock)
    began = own.now()
    clock.at += 3
    with own.standing_still():
        clock.at += 100
        assert own.now() - began == 3
    clock.at += 2
    with suppress(RuntimeError), own.standing_still():
        clock.at += 100
        raise RuntimeError
    assert own.now() - began == 5

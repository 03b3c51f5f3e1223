"""The clock: real time until it is moved, and whoever waits notices."""

import asyncio
import time

import pytest

from workbench.local_cloud.base.clock import Clock


async def test_a_wait_ends_when_the_clock_is_moved_past_it() -> None:
    clock = Clock()
    waiting = asyncio.ensure_future(clock.sleep(24 * 3600))
    await asyncio.sleep(0)
    clock.advance(12 * 3600)
    await asyncio.sleep(0.05)
    assert not waiting.done()
    clock.advance(12 * 3600)
    await asyncio.wait_for(waiting, 10)
    assert clock.offset_s == 24 * 3600
    assert clock.time() - time.time() == pytest.approx(24 * 3600, abs=5)


async def test_the_first_of_several_waits_ends_the_wait_and_the_others_are_cancelled() -> None:
    clock = Clock()
    event, never = asyncio.Event(), asyncio.Event()
    other = asyncio.ensure_future(never.wait())
    asyncio.get_running_loop().call_later(0.01, event.set)
    await asyncio.wait_for(clock.first(event.wait(), other, timeout_s=3600), 10)
    await asyncio.wait([other])
    assert other.cancelled()


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan"), 1e12])
def test_it_goes_neither_back_nor_astray(seconds: float) -> None:
    clock = Clock()
    with pytest.raises(ValueError, match="advanced by"):
        clock.advance(seconds)
    assert clock.offset_s == 0


async def test_a_timer_rings_when_the_clock_reaches_its_moment_and_not_when_it_was_cancelled() -> None:
    clock = Clock()
    rung: list[str] = []
    soon, later = asyncio.Event(), asyncio.Event()
    clock.call_later(0.01, soon.set)
    clock.call_later(3600, later.set)
    cancelled = clock.call_later(60, lambda: rung.append("cancelled"))
    await asyncio.wait_for(soon.wait(), 10)
    cancelled.cancel()
    assert not later.is_set()
    clock.advance(3600)
    await asyncio.wait_for(later.wait(), 10)
    cancelled.cancel()
    assert rung == []

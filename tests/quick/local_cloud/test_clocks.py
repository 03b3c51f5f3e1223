"""The clocks of apps: each can be moved alone, follows the whole cloud's, and what is lent is taken back."""

import asyncio

import pytest

from workbench.local_cloud.base.clocks import MAX_LENT, WHOLE, Clocks


@pytest.fixture
def clocks() -> Clocks:
    return Clocks(lambda function_id: function_id.replace("fu", "ap"))


async def test_what_an_app_waits_for_comes_by_its_own_clock_and_nobody_elses(clocks: Clocks) -> None:
    mine = asyncio.ensure_future(clocks.of_function("fu-1").sleep(3600))
    others = asyncio.ensure_future(clocks.of("ap-2").sleep(3600))
    nobodys = asyncio.ensure_future(clocks.whole.sleep(3600))
    await asyncio.sleep(0)
    clocks.of("ap-1").advance(3600)
    await asyncio.wait_for(mine, 10)
    await asyncio.sleep(0.05)
    assert (others.done(), nobodys.done()) == (False, False)
    assert [clocks.of(one).offset_s for one in ("ap-1", "ap-2", WHOLE)] == [3600, 0, 0]
    clocks.whole.advance(3600)
    await asyncio.wait_for(asyncio.gather(others, nobodys), 10)
    assert [clocks.of(one).offset_s for one in ("ap-1", "ap-2", WHOLE)] == [7200, 3600, 3600]
    assert list(clocks.ahead()) == ["ap-1"]


async def test_a_clock_that_is_set_back_shows_the_whole_clouds_time_and_no_wait_lasts_longer(clocks: Clocks) -> None:
    clock = clocks.of("ap-1")
    begun = asyncio.ensure_future(clock.sleep(100))
    await asyncio.sleep(0)
    clocks.whole.advance(5)
    clock.advance(90.1)
    before = clock.monotonic()
    clocks.set_back("ap-1")
    assert (clock.offset_s, clocks.ahead()) == (5, {})
    assert clock.monotonic() >= before
    clock.advance(10)  # of the 100 that are over already, 95 are not taken back
    await asyncio.wait_for(begun, 10)


async def test_what_is_lent_and_not_renewed_is_taken_back_and_the_rest_stays(clocks: Clocks) -> None:
    clocks.of("ap-1").advance(7)
    kept = clocks.lend("ap-1", 100, lease_s=3600)
    lost = clocks.lend("ap-1", 1000, lease_s=0.05)
    assert clocks.of("ap-1").offset_s == 1107
    while clocks.of("ap-1").offset_s != 107:  # noqa: ASYNC110  # it is a real lease
        await asyncio.sleep(0.01)
    assert (clocks.renew(lost), clocks.take_back(lost), clocks.renew(kept)) == (False, False, True)
    assert clocks.take_back(kept)
    assert clocks.of("ap-1").offset_s == 7


async def test_two_who_move_the_same_clock_take_back_only_what_is_theirs(clocks: Clocks) -> None:
    moves = [clocks.lend(WHOLE, seconds, lease_s=60) for seconds in (0.1, 0.2, 0.3)]
    assert clocks.whole.offset_s == pytest.approx(0.6)
    for move, left in zip(moves, (0.5, 0.3, 0.0), strict=True):
        clocks.take_back(move)
        assert clocks.whole.offset_s == pytest.approx(left)
    assert clocks.whole.offset_s == 0


async def test_an_app_that_has_ended_leaves_neither_a_clock_nor_a_move(clocks: Clocks) -> None:
    move = clocks.lend("ap-1", 60, lease_s=60)
    ended = clocks.of("ap-1")
    clocks.forget("ap-1")
    clocks.forget("ap-never-used")
    assert (clocks.renew(move), ended.offset_s, clocks.of("ap-1").offset_s) == (False, 0, 0)


async def test_no_more_is_lent_than_somebody_can_mean(clocks: Clocks) -> None:
    for _ in range(MAX_LENT):
        clocks.lend("ap-1", 1, lease_s=60)
    with pytest.raises(ValueError, match="moves of clocks are lent already"):
        clocks.lend("ap-2", 1, lease_s=60)
    with pytest.raises(ValueError, match="advanced by"):
        Clocks(str).lend("ap-2", -1, lease_s=60)
    assert clocks.of("ap-2").offset_s == 0
    clocks.close()
    assert clocks.of("ap-1").offset_s == 0

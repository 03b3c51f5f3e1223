"""What a hop holds back is told, whatever the two clocks say, and nothing is told that is not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_app.contract.events import Event, StreamEvent
from workbench.runs.arrivals import MOST, Arrivals


def event(at_ms: int) -> Event:
    return StreamEvent(run_id="r", seq=1, at_ms=1_700_000_000_000 + at_ms, elapsed_ms=at_ms, channel="stdout", text="x")


def heard(*came: tuple[int, int], ahead_s: float = 0.0) -> Arrivals:
    """Events by their times and those of their arrivals, in milliseconds, by a clock that is so far ahead."""
    arrivals = Arrivals()
    for at, arrived in came:
        arrivals.add(event(at), ahead_s + arrived / 1000)
    return arrivals


@pytest.mark.parametrize("ahead_s", [0.0, 3600.0, -1_699_999_000.0])
def test_a_hop_that_keeps_all_until_the_end_is_seen_whatever_the_clocks_say(ahead_s: float) -> None:
    kept = heard((0, 5010), (1000, 5010), (2500, 5010), (5000, 5010), ahead_s=ahead_s)
    assert [round(one.lag_ms, -1) for one in kept.lags] == [5000, 4000, 2500, 0]
    assert "up to 5.0 s late" in kept.told
    passed = heard((0, 10), (1000, 1012), (2500, 2540), (5000, 5011), ahead_s=ahead_s)
    assert "held" not in passed.told
    assert passed.most_ms in (29, 30, 31)


def test_a_hop_that_keeps_a_part_is_seen_where_it_did() -> None:
    lags = heard((0, 10), (1000, 3010), (2000, 3010), (3000, 3010), (4000, 4010)).lags
    assert [one.lag_ms for one in lags] == [0, 2000, 1000, 0, 0]


def test_a_delay_that_all_share_is_not_seen() -> None:
    assert heard((0, 9000), (1000, 10_000), (2000, 11_000)).most_ms == 0


def test_what_was_there_before_anybody_listened_is_no_lag() -> None:
    """Of a run that is followed later, all that there is comes at once."""
    arrivals = Arrivals(since_s=100.0)
    for at, arrived_s in ((0, 100.0), (5000, 100.0), (60_000, 100.1), (60_400, 100.5), (61_000, 101.1)):
        arrivals.add(event(at), arrived_s)
    arrivals.add(event(62_000), 104.1)
    assert arrivals.most_ms == 2000
    assert all(one.from_ms >= 60_000 or one.lag_ms >= 0 for one in arrivals.lags)


def test_nothing_is_told_of_no_event() -> None:
    assert (Arrivals().lags, Arrivals().told, Arrivals().most_ms) == ([], "", 0)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**6)), min_size=1, max_size=600))
def test_memory_is_bounded_and_the_greatest_lag_is_kept(given_: list[tuple[int, int]]) -> None:
    came = sorted((at, at + late) for at, late in given_)
    arrivals = heard(*came)
    lags = arrivals.lags
    assert len(lags) <= MOST
    assert sum(one.events for one in lags) == len(came)
    late = [arrived - at for at, arrived in came]
    assert abs(arrivals.most_ms - (max(late) - min(late))) <= 2
    assert [one.from_ms for one in lags] == sorted(one.from_ms for one in lags)

"""A playback by a clock of the test's own: speed, steps, jumps, and what its listeners hear."""

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_app.contract.events import Event
from tests.conftest import wait_until
from tests.standard.browser.events import claude_run, long_run
from workbench.runs.playback import NothingToPlayError, Playback
from workbench.runs.view_state import ViewState, reduce
from workbench.widgets import Replay

EVENTS = claude_run()
TIMES = [event.elapsed_ms for event in EVENTS]


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def playing(events: list[Event] = EVENTS, speed: float = 1.0) -> tuple[Playback, Clock, list[int]]:
    clock = Clock()
    playback = Playback(events, speed=speed, clock=clock)
    heard: list[int] = []
    playback.listen(lambda received: heard.append(received.event.seq))
    return playback, clock, heard


def state_after(events: list[Event]) -> ViewState:
    state = ViewState()
    for event in events:
        state = reduce(state, event)
    return state


@pytest.mark.parametrize("speed", [0.1, 1.0, 2.0, 100.0])
def test_events_are_due_at_their_own_times_by_the_speed(speed: float) -> None:
    playback, clock, heard = playing(speed=speed)
    assert playback.advance() == 0
    playback.play()
    clock.now += 1.0 / speed
    assert playback.advance() == sum(time <= 1000 for time in TIMES)
    assert heard == [event.seq for event in EVENTS if event.elapsed_ms <= 1000]
    assert playback.state.elapsed_ms == 1000
    clock.now += 10.0 / speed
    playback.advance()
    assert heard == [event.seq for event in EVENTS]
    assert (playback.playing, playback.position_ms, playback.state) == (False, TIMES[-1], state_after(EVENTS))


def test_pausing_and_another_speed_keep_the_place() -> None:
    playback, clock, _ = playing()
    playback.play()
    clock.now += 0.5
    playback.pause()
    clock.now += 60
    assert (playback.position_ms, playback.pace) == (500, 0)
    playback.play()
    playback.set_speed(10)
    clock.now += 0.05
    assert (playback.position_ms, playback.pace) == (1000, 10)
    playback.set_speed(0.1)
    clock.now += 1
    assert playback.position_ms == 1100


def test_steps_go_one_event_forth_and_back() -> None:
    playback, _, heard = playing()
    jumps: list[int] = []
    playback.on_jump(lambda: jumps.append(playback.played))
    playback.step()
    playback.step()
    playback.step(-1)
    assert jumps == [1, 2, 1]
    playback.step(-5)
    playback.step(1000)
    assert playback.played == len(EVENTS)
    assert playback.state == state_after(EVENTS)
    assert heard == []  # a jump is told as one, and whoever shows the run asks for what lies behind it


@given(st.lists(st.integers(-100, TIMES[-1] + 100), max_size=8))
def test_wherever_one_jumps_the_state_is_that_of_the_events_before(places: list[int]) -> None:
    playback, _, _ = playing()
    for place in places:
        playback.seek(place)
        count = bisect_right(TIMES, place) if place > 0 else 0
        assert list(playback.events) == EVENTS[:count]
        assert playback.state.events == count
        assert playback.state.phase == state_after(EVENTS[:count]).phase


def test_a_long_run_is_jumped_in_both_ways() -> None:
    """Over the states that are kept, too."""
    events = long_run(5000, 50_000)
    playback, clock, heard = playing(events, speed=100)
    for place in (50_000, 10_000, 30_000, 0):
        playback.seek(place)
        behind = [event for event in events if event.elapsed_ms <= place] if place else []
        assert playback.state.bytes == state_after(behind).bytes
    playback.play()
    clock.now += 0.5
    assert playback.advance() == 5000
    assert heard == list(range(1, 5001))
    playback.play()
    assert (playback.played, playback.playing) == (0, True)


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(NothingToPlayError):
        Playback([])
    playback, _, _ = playing()
    for speed in (0, 0.05, 101, -1, float("nan")):
        with pytest.raises(ValueError, match="speed"):
            playback.set_speed(speed)
    with pytest.raises(NothingToPlayError):
        playback.checks()


def test_times_that_fall_are_played_in_the_order_of_the_events() -> None:
    late = [EVENTS[0], EVENTS[1].model_copy(update={"elapsed_ms": 10**18}), EVENTS[2]]
    playback, _, _ = playing(late)
    playback.seek(10**18)
    assert list(playback.events) == late


def test_the_widget_plays_steps_and_jumps() -> None:
    """By its own thread and the real clock: everything is told in the end."""
    replay = Replay(EVENTS)
    view = replay.view
    assert view is not None
    replay._on_message(replay, {"type": "step", "by": 1}, [])
    wait_until(lambda: (replay.played, view.event_count) == (1, 1), "it did not step")
    replay._on_message(replay, {"type": "speed", "speed": 1000}, [])
    replay._on_message(replay, {"type": "play"}, [])
    wait_until(lambda: replay.played == len(EVENTS) and not replay.playing, "it did not play to its end")
    wait_until(lambda: view.condition == "done", "the view did not hear the end")
    assert replay.speed == 100
    replay._on_message(replay, {"type": "seek", "position_ms": 1000}, [])
    wait_until(lambda: view.condition == "running", "it did not jump back")
    assert replay.position_ms == 1000
    assert view.event_count == sum(time <= 1000 for time in TIMES)
    assert "running" in replay.still()["plain"]
    replay.close()

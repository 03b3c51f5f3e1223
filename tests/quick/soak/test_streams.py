"""What the soaks of streams and readers find, they find."""

import time

import pytest

from workbench.soak import stalled, stream_soak
from workbench.soak.soak_failures import SoakFailedError

_QUEUED = b'{"type":"status","run_id":"r","seq":1,"at_ms":1,"elapsed_ms":1,"phase":"queued","message":"later"}'
_DATA = b'{"type":"stream","run_id":"r","seq":%d,"at_ms":1,"elapsed_ms":1,"channel":"stdout","text":"%.3f\\n"}'


def test_a_silence_and_a_late_event_are_seen() -> None:
    figures, delays = stream_soak.Figures(), list[float]()
    reader = stream_soak.Reader(figures, delays)
    reader.take(b"id: 1\nevent: stream\ndata: " + _DATA % (1, time.time() - 3) + b"\n\n: heart")
    time.sleep(0.05)
    reader.take(b"beat\n\n")
    assert figures.events == 1
    assert delays[0] >= 2.99  # the time is told in milliseconds
    assert figures.longest_silence_s >= 0.05


def test_runs_that_wait_are_counted_and_may_be_silent_for_as_long_as_heartbeats_allow() -> None:
    figures = stream_soak.Figures(allowed_silence_s=0.01, allowed_start_silence_s=60)
    reader = stream_soak.Reader(figures, [])
    time.sleep(0.02)
    reader.take(b"id: 1\nevent: status\ndata: " + _QUEUED + b"\n\n")
    assert (figures.queued, figures.silences_too_long, figures.longest_silence_s) == (1, 0, 0)
    reader.take(b"id: 2\nevent: stream\ndata: " + _DATA % (2, time.time()) + b"\n\n")
    time.sleep(0.02)
    reader.take(b": heartbeat\n\n")
    assert figures.silences_too_long == 1
    assert figures.longest_silence_s >= 0.02


def test_runs_that_start_at_the_same_moment_are_given_time_for_it() -> None:
    assert stream_soak.starting_in_s(100, rate=2, storm=0) == 50
    assert stream_soak.starting_in_s(100, rate=2, storm=80) == 10 + 40
    assert stream_soak.starting_in_s(100, rate=2, storm=100) == 50


@pytest.mark.parametrize(
    ("every_s", "heartbeat_s", "allowed_s"), [(10, 1.5, 2), (1, 1.5, 2), (10, 15, 12), (30, 15, 17)]
)
def test_rare_heartbeats_allow_silence(every_s: float, heartbeat_s: float, allowed_s: float) -> None:
    assert stream_soak.allowed_silence_s(every_s, heartbeat_s) == allowed_s


def test_what_is_too_long_or_too_much_fails() -> None:
    figures = stream_soak.Figures(runs=2, done=2, most_at_once=2, longest_silence_s=2.1, allowed_silence_s=2)
    with pytest.raises(SoakFailedError, match=r"silent for 2\.1 s"):
        stream_soak.judge(figures, 2)
    with pytest.raises(SoakFailedError, match="1 of 3 runs did not end well"):
        stream_soak.judge(figures, 3)
    with pytest.raises(SoakFailedError, match="only 1 of 2 runs went on at the same time"):
        stream_soak.judge(stream_soak.Figures(runs=2, done=2, most_at_once=1), 2)
    with pytest.raises(SoakFailedError, match=r"came 2\.5 s after it was printed"):
        stream_soak.judge(stream_soak.Figures(runs=2, done=2, most_at_once=2, longest_delay_s=2.5), 2)
    with pytest.raises(SoakFailedError, match="came 1200 ms after it was printed, or later"):
        stream_soak.judge(stream_soak.Figures(runs=2, done=2, most_at_once=2, delay_p99_ms=1200), 2)
    with pytest.raises(SoakFailedError, match="silent for too long, 3 times"):
        stream_soak.judge(stream_soak.Figures(runs=2, done=2, most_at_once=2, silences_too_long=3), 2)
    stream_soak.judge(
        stream_soak.Figures(runs=2, done=2, most_at_once=2, longest_silence_s=1.9, allowed_silence_s=2), 2
    )
    with pytest.raises(SoakFailedError, match="memory grows"):
        stalled.judge(stalled.Figures(memory_mb=[80, 150, 160, 300]))
    stalled.judge(stalled.Figures(memory_mb=[80, 200, 190, 210]))

"""Many streams at once, and readers that take nothing: short forms of `workbench soak streams` and `readers`."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from tests.conftest import wait_until
from tests.processes import naming
from tests.workbench.test_cli import WORKBENCH, cli
from workbench.local_cloud.state import State
from workbench.soak import stalled, streams
from workbench.soak.failures import SoakFailedError

_DATA = b'{"type":"stream","run_id":"r","seq":%d,"at_ms":1,"elapsed_ms":1,"channel":"stdout","text":"%.3f\\n"}'


@pytest.mark.timeout(300)
def test_runs_that_talk_at_once_all_end_and_are_heard() -> None:
    asked = ("--count", "8", "--rate", "4", "--hold-s", "20", "--every-s", "0.5")
    done = cli("soak", "streams", *asked, "--json", timeout_s=250)
    assert re.search(r"begun\s.* 8/8 .*\nended\s.* 8/8 ", done.stderr), done.stderr
    report = json.loads(done.stdout)
    assert (report["runs"], report["done"], report["ends"]) == (8, 8, {"done": 8}), report
    assert report["most_at_once"] == 8
    assert report["events"] > 8 * 4
    assert 0 < report["delay_median_ms"] <= report["delay_p99_ms"]
    assert report["cloud_mb"] > 0
    assert report["endpoint_mb"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_soak_that_is_ended_leaves_no_cloud(own_state: State, number: signal.Signals) -> None:
    """By another program, with its terminal, or at once."""
    temporary = own_state.root.parent
    command = [*WORKBENCH, "soak", "streams", "--count", "50"]
    env = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # it may be ignored where the tests run
    ) as soak:
        try:
            wait_until(lambda: bool(naming(str(temporary))), "no cloud was started")
            soak.send_signal(number)
            assert soak.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
        finally:
            soak.kill()
    wait_until(lambda: not naming(str(temporary)), "the cloud outlived its soak")
    if number != signal.SIGKILL:
        assert list(temporary.iterdir()) == []


@pytest.mark.timeout(300)
def test_readers_that_take_nothing_are_outlived() -> None:
    report = json.loads(cli("soak", "readers", "--mb", "10", "--stalled", "4", "--json", timeout_s=250).stdout)
    assert (report["ok"], report["failure"], report["stalled"]) == (True, "", 4)
    assert report["taken_mb"] >= 10
    assert len(report["memory_mb"]) == 11  # before, and after each tenth


def test_a_silence_and_a_late_event_are_seen() -> None:
    figures, delays = streams.Figures(), list[float]()
    reader = streams.Reader(figures, delays)
    reader.take(b"id: 1\nevent: stream\ndata: " + _DATA % (1, time.time() - 3) + b"\n\n: heart")
    time.sleep(0.05)
    reader.take(b"beat\n\n")
    assert figures.events == 1
    assert delays[0] >= 2.99  # the time is told in milliseconds
    assert figures.longest_silence_s >= 0.05


@pytest.mark.parametrize(
    ("every_s", "heartbeat_s", "allowed_s"), [(10, 1.5, 2), (1, 1.5, 2), (10, 15, 12), (30, 15, 17)]
)
def test_rare_heartbeats_allow_silence(every_s: float, heartbeat_s: float, allowed_s: float) -> None:
    assert streams.allowed_silence_s(every_s, heartbeat_s) == allowed_s


def test_what_is_too_long_or_too_much_fails() -> None:
    figures = streams.Figures(runs=2, done=2, most_at_once=2, longest_silence_s=2.1, allowed_silence_s=2)
    with pytest.raises(SoakFailedError, match=r"silent for 2\.1 s"):
        streams.judge(figures, 2)
    with pytest.raises(SoakFailedError, match="1 of 3 runs did not end well"):
        streams.judge(figures, 3)
    with pytest.raises(SoakFailedError, match="only 1 of 2 runs were there at once"):
        streams.judge(streams.Figures(runs=2, done=2, most_at_once=1), 2)
    with pytest.raises(SoakFailedError, match=r"came 2\.5 s after it was printed"):
        streams.judge(streams.Figures(runs=2, done=2, most_at_once=2, longest_delay_s=2.5), 2)
    streams.judge(streams.Figures(runs=2, done=2, most_at_once=2, longest_silence_s=1.9, allowed_silence_s=2), 2)
    with pytest.raises(SoakFailedError, match="memory grows"):
        stalled.judge(stalled.Figures(memory_mb=[80, 150, 160, 300]))
    stalled.judge(stalled.Figures(memory_mb=[80, 200, 190, 210]))

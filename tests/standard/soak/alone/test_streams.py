"""Many streams at once: none of them is silent for two seconds, when nothing else takes the machine."""

import json
import re

import pytest

from tests.support.commands import cli


@pytest.mark.timeout(300)
def test_runs_that_talk_at_once_all_end_and_are_heard() -> None:
    # On a busy machine, sandboxes that start at once take several seconds to their first line: runs end by the clock.
    asked = ("--count", "6", "--rate", "4", "--hold-s", "12", "--every-s", "0.5")
    done = cli("soak", "streams", *asked, "--json", timeout_s=250)
    assert re.search(r"begun\s.* 6/6 .*\nended\s.* 6/6 ", done.stderr), done.stderr
    report = json.loads(done.stdout)
    assert (report["runs"], report["done"], report["ends"]) == (6, 6, {"done": 6}), report
    assert report["most_at_once"] == 6
    assert report["events"] > 6 * 4
    assert 0 < report["delay_median_ms"] <= report["delay_p99_ms"]
    assert report["cloud_mb"] > 0
    assert report["endpoint_mb"] > 0

"""Many streams at once: none of them is silent for two seconds, when nothing else takes the machine."""

import json
import re

import pytest

from tests.support.commands import cli


@pytest.mark.timeout(300)
def test_runs_that_talk_at_once_all_end_and_are_heard() -> None:
    asked = ("--count", "8", "--rate", "4", "--hold-s", "8", "--every-s", "0.5")
    done = cli("soak", "streams", *asked, "--json", timeout_s=250)
    assert re.search(r"begun\s.* 8/8 .*\nended\s.* 8/8 ", done.stderr), done.stderr
    report = json.loads(done.stdout)
    assert (report["runs"], report["done"], report["ends"]) == (8, 8, {"done": 8}), report
    assert report["most_at_once"] == 8
    assert report["events"] > 8 * 4
    assert 0 < report["delay_median_ms"] <= report["delay_p99_ms"]
    assert report["cloud_mb"] > 0
    assert report["endpoint_mb"] > 0

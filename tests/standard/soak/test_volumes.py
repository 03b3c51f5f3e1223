"""A seeded part of what `workbench soak volumes` does for hours."""

import json

import pytest

from tests.support.commands import cli


@pytest.mark.timeout(180)
def test_what_was_acknowledged_survives_kills_and_large_things_come_back() -> None:
    asked = ("--kills", "2", "--size-mb", "16", "--files", "150")
    done = cli("soak", "volumes", "--json", "--seed", "7", *asked, timeout_s=170)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["kills"]) == (True, 2)
    assert found["acknowledged"] >= 2
    assert found["large_file_s"] > 0
    assert found["many_files_s"] > 0

"""A seeded part of what `workbench soak volumes` does for hours."""

import json

import pytest

from tests.support.commands import cli


@pytest.mark.timeout(180)
def test_what_was_acknowledged_survives_kills_and_large_things_come_back() -> None:
    asked = ("--kills", "3", "--size-mb", "40", "--files", "300")
    done = cli("soak", "volumes", "--json", "--seed", "7", *asked, timeout_s=170)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["kills"]) == (True, 3)
    assert found["acknowledged"] >= 3
    assert found["large_file_s"] > 0
    assert found["many_files_s"] > 0

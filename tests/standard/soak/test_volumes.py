"""A seeded part of what `workbench soak volumes` does for hours."""

import json
import subprocess
import sys

import pytest


@pytest.mark.timeout(180)
def test_what_was_acknowledged_survives_kills_and_large_things_come_back() -> None:
    command = [sys.executable, "-m", "workbench", "soak", "volumes", "--json", "--seed", "7"]
    command += ["--kills", "3", "--size-mb", "40", "--files", "300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["kills"]) == (True, 3)
    assert found["acknowledged"] >= 3
    assert found["large_file_s"] > 0
    assert found["many_files_s"] > 0

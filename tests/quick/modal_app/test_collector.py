"""What was there at the start is left out of collections."""

import json
import subprocess
import sys

PROGRAM = """
import gc, json
import modal_app.web
from modal_app import collector
before = len(gc.get_objects())
collector.settle()
print(json.dumps([before, len(gc.get_objects()), gc.get_freeze_count(), gc.isenabled()]))
"""


def test_what_was_there_at_the_start_is_not_looked_at_again() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True)
    before, after, frozen, enabled = json.loads(done.stdout)
    assert before > 50_000
    assert after < before / 100
    assert frozen > before / 2
    assert enabled

"""A cloud that may open few files and sockets refuses what it has no room for, and loses nothing that it has begun."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import warm
from workbench.local_cloud.process.state_directory import STATE_VARIABLE, State

pytestmark = pytest.mark.timeout(300)
LIMIT = 200
SANDBOXES = 30

# Each sandbox prints a text of its own; what became of it is told in one word.
PROGRAM = f"""
import json, os
from concurrent.futures import ThreadPoolExecutor
import modal

os.environ["MODAL_MAX_THROTTLE_WAIT"] = "1"
app = modal.App.lookup("crowded", create_if_missing=True)

def run(number):
    try:
        sandbox = modal.Sandbox.create(app=app, timeout=120)
        process = sandbox.exec("sh", "-c", f"for n in 1 2 3; do echo {{number}} $n; done; sleep 1; echo end")
        said, code = process.stdout.read(), process.wait()
        whole = "".join(f"{{number}} {{n}}\\n" for n in (1, 2, 3)) + "end\\n"
        return "exact" if (said, code) == (whole, 0) else f"lost {{said!r}} {{code}}"
    except modal.exception.Error as error:
        return type(error).__name__

with ThreadPoolExecutor({SANDBOXES}) as pool:
    found = list(pool.map(run, range({SANDBOXES})))
for sandbox in modal.Sandbox.list(app_id=app.app_id):
    sandbox.terminate(wait=True)
found.append(run(99))
print(json.dumps(found))
"""


def test_what_there_is_no_room_for_is_refused_and_nothing_is_lost(own_state: State) -> None:
    own_state.create()
    env = {**os.environ, STATE_VARIABLE: str(own_state.root)}
    start = [sys.executable, "-m", "workbench", "cloud", "start"]
    limited = ["sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh", *start]
    subprocess.run(limited, env=env, capture_output=True, timeout=120, check=True)
    running = own_state.running()
    assert running is not None
    done = warm.run("-c", PROGRAM, env={**env, **running.env()}, timeout_s=250)
    assert done.returncode == 0, done.stderr
    *crowd, later = json.loads(done.stdout.splitlines()[-1])
    assert set(crowd) == {"exact", "ResourceExhaustedError"}
    assert later == "exact"
    assert own_state.running() is not None
    assert "Too many open files" not in own_state.log.read_text()

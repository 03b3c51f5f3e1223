"""Where no root file system can be made, functions share this machine's system, read-only, as sandboxes do then."""

import json
import os
from pathlib import Path

import pytest

from tests.support import warm
from workbench.local_cloud.process import daemon
from workbench.local_cloud.process.state_directory import State
from workbench.local_cloud.rootfs.ids import IDS_VARIABLE

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's ids are this machine's affair"),
]

PROGRAM = """
import json, modal, sys
image = modal.Image.debian_slim().add_local_file(sys.argv[1], "/opt/own/copied", copy=True)
image = image.add_local_file(sys.argv[1], "/opt/own/mounted")
app = modal.App(image=image)
def look():
    import os, subprocess
    refused = []
    for path in ("/usr/x", "/etc/passwd", "/opt/own/copied"):
        try:
            open(path, "a").close()
        except OSError:
            refused.append(path)
    for path in ("/tmp/x", "/root/x", "/data/x"):
        open(path, "w").close()
    return {"refused": refused, "own": sorted(os.listdir("/opt/own"))}
volume = modal.Volume.from_name("shared", create_if_missing=True)
function = app.function(serialized=True, volumes={"/data": volume})(look)
with app.run():
    print(json.dumps(function.remote()))
"""


def test_a_function_shares_the_system_and_the_log_says_why(
    own_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IDS_VARIABLE, "none")  # so that there are no ids for root file systems
    running, _ = daemon.start(own_state)
    source = tmp_path / "source"
    source.write_text("x")
    done = warm.run("-c", PROGRAM, str(source), cwd=tmp_path, env={**os.environ, **running.env()})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"refused": ["/usr/x", "/etc/passwd", "/opt/own/copied"], "own": ["copied", "mounted"]}
    lines = [json.loads(line) for line in own_state.log.read_text().splitlines()]
    why = {line["why"] for line in lines if line["event"] == "container.shares_the_system"}
    assert [IDS_VARIABLE in each for each in why] == [True]

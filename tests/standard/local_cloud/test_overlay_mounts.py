"""Overlay mounts in a real cloud: a job meets a plain directory, and nothing of them outlives the cloud."""

import json
import os
from pathlib import Path

import psutil
import pytest

from tests.support import warm
from workbench.local_cloud import why_without_overlay
from workbench.local_cloud.process import daemon
from workbench.local_cloud.process.state_directory import State

pytestmark = pytest.mark.timeout(180)

FIRST = """
import modal
app = modal.App.lookup("overlay", create_if_missing=True)
volume = modal.Volume.from_name("v", create_if_missing=True, version=2)
script = "cd /v && git init -q . && mkdir -p d/e && echo 1 > d/e/f && echo 2 > g && sync /v"
image = modal.Image.debian_slim().apt_install("git")
sandbox = modal.Sandbox.create("sh", "-c", script, app=app, image=image, volumes={"/v": volume}, timeout=60)
sandbox.wait()
print(sandbox.returncode)
"""
SECOND = '''
import json, modal
app = modal.App.lookup("overlay", create_if_missing=True)
volume = modal.Volume.from_name("v", version=2)
script = """
import ctypes, os, subprocess
os.chdir("/v")
os.rename("d", "moved")
os.rename("moved/e", "e")
os.link("g", "linked")
open("linked", "a").write("more")
print(open("g").read().split())
os.mkdir("other")
done = ctypes.CDLL(None).renameat2(-100, b"other", -100, b"moved", 2)
print(done, sorted(os.listdir(".")))
git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
subprocess.run([*git, "add", "e"], check=True)
subprocess.run([*git, "commit", "-qm", "1"], check=True)
subprocess.run([*git, "mv", "e", "by-git"], check=True)
try:
    os.mknod("null", 0o20666, os.makedev(1, 3))
except OSError as error:
    print(error.strerror)
print(open("/proc/self/mountinfo").read().count(" /v "))
"""
image = modal.Image.debian_slim().apt_install("git")
sandbox = modal.Sandbox.create("python3", "-c", script, app=app, image=image, volumes={"/v": volume}, timeout=60)
sandbox.wait()
said = sandbox.stdout.read().splitlines()
files = sorted(entry.path for entry in volume.iterdir("/", recursive=True) if not entry.path.startswith(".git"))
print(json.dumps([sandbox.returncode, said, files, sandbox.stderr.read()]))
'''
LARGE = """
import modal
app = modal.App.lookup("overlay", create_if_missing=True)
volume = modal.Volume.from_name("v", create_if_missing=True, version=2)
script = "cd /v && mkdir -p d/e many && echo 1 > d/e/f && echo 2 > g && touch $(seq -f many/%g 2100) && sync /v"
sandbox = modal.Sandbox.create("sh", "-c", script, app=app, volumes={"/v": volume}, timeout=60)
sandbox.wait()
print(sandbox.returncode)
"""
IN_LARGE = '''
import io, json, modal
app = modal.App.lookup("overlay", create_if_missing=True)
volume = modal.Volume.from_name("v", version=2)
script = """
import errno, os, shutil
os.chdir("/v")
said = [" overlay " in line for line in open("/proc/self/mountinfo") if " /v " in line]
try:
    os.rename("d", "moved")
except OSError as error:
    said.append(errno.errorcode[error.errno])
    shutil.move("d", "moved")
os.rename("moved", "again")
os.mkdir("own")
os.rename("own", "mine")
os.rename("many/1", "many/first")
os.link("g", "linked")
open("linked", "a").write("more")
os.chmod("many/2", 0o755)
os.unlink("many/3")
said.append(open("g").read().split())
print(*said, flush=True)
open("/tmp/said", "w").close()
held = open("g")
input()
"""
sandbox = modal.Sandbox.create(app=app, volumes={"/v": volume}, timeout=60)
job = sandbox.exec("python3", "-c", script)
said = next(iter(job.stdout)).strip()
with volume.batch_upload(force=True) as batch:
    batch.put_file(io.BytesIO(b"theirs"), "/many/4")
    batch.put_file(io.BytesIO(b"theirs"), "/again/theirs")
refused = ""
try:
    sandbox.reload_volumes()
except Exception as error:
    refused = str(error)
job.stdin.write(b"\\n")
job.stdin.drain()
job.wait()
sandbox.reload_volumes()
seen = sandbox.exec("sh", "-c", "cd /v; cat many/4 again/theirs again/e/f linked; ls many | wc -l; sync .")
shown = seen.stdout.read().split()
sandbox.terminate()
files = sorted(entry.path for entry in volume.iterdir("/", recursive=True) if not entry.path.startswith("many/"))
print(json.dumps([said, "open files" in refused and "python3" in refused, shown, files]))
'''
HELD = """
import modal, time
app = modal.App.lookup("overlay", create_if_missing=True)
volume = modal.Volume.from_name("v", version=2)
script = "echo x > /v/written; sleep 600"
sandbox = modal.Sandbox.create("sh", "-c", script, app=app, volumes={"/v": volume}, timeout=600)
sandbox.exec("true").wait()
print(sandbox.object_id)
sandbox.detach()
"""


@pytest.fixture
def place(own_state: State) -> State:
    own_state.create()
    if why := why_without_overlay(own_state.root):
        pytest.skip(why)
    return own_state


def _python(state: State, code: str) -> str:
    done = warm.run("-c", code, env={**os.environ, **daemon.start(state)[0].env()})
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def _mounts_of(state: State, mountinfo: str = "/proc/self/mountinfo") -> list[str]:
    return [line for line in Path(mountinfo).read_text().splitlines() if str(state.root) in line]


def test_a_job_renames_links_and_exchanges_what_an_earlier_job_has_committed(place: State) -> None:
    """All of it fails on an overlay that is not made for it (EXDEV), and `git mv` with it."""
    assert _python(place, FIRST).split() == ["0"]
    code, said, files, complaint = json.loads(_python(place, SECOND))
    assert (code, complaint) == (0, "")
    assert said == [
        "['2', 'more']",
        "0 ['.git', 'e', 'g', 'linked', 'moved', 'other']",
        "Operation not permitted",
        "1",
    ]
    assert files == ["by-git", "by-git/f", "g", "linked", "moved", "other"]


def test_a_large_project_is_an_overlay_for_an_ordinary_user_too(place: State) -> None:
    """A user namespace cannot have directories of its layers renamed in one step; whoever moves them copies them."""
    assert _python(place, LARGE).split() == ["0"]
    said, is_busy, shown, files = json.loads(_python(place, IN_LARGE))
    assert said == ("True ['2', 'more']" if os.geteuid() == 0 else "True EXDEV ['2', 'more']")
    assert is_busy
    assert shown == ["theirstheirs1", "2", "more2099"]
    assert files == ["again", "again/e", "again/e/f", "again/theirs", "g", "linked", "many", "mine"]


def test_no_mount_is_in_the_host_s_table_and_none_outlives_a_killed_cloud(place: State) -> None:
    """SIGKILL cannot be answered: the kernel has to remove the mounts, and does, with their namespace."""
    _python(place, LARGE)
    _python(place, HELD)
    running = place.running()
    assert running is not None
    assert [line for line in _mounts_of(place, f"/proc/{running.pid}/mountinfo") if "overlay" in line]
    assert _mounts_of(place) == []
    cloud = psutil.Process(running.pid)
    left = [cloud, *cloud.children(recursive=True)]
    cloud.kill()
    _, alive = psutil.wait_procs(left, timeout=30)
    assert alive == []
    assert _mounts_of(place) == []
    assert list((place.root / "run").iterdir()) == []
    files = _python(place, "import modal; print(*[e.path for e in modal.Volume.from_name('v').iterdir('/')])")
    assert {"d", "g"} <= set(files.split())

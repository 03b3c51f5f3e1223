"""A soak finds what is left, each kind of it, goes on where it was interrupted, and leaves nothing itself."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import descendants, wait_until
from tests.support.commands import WORKBENCH, cli
from tests.support.places import free_port
from workbench.soak.cycles import ENDS, Cycle
from workbench.soak.kills import THENS, Kill
from workbench.soak.leftovers import Scene
from workbench.soak.progress import Progress
from workbench.soak.soak_failures import SoakFailedError

SOAK = ("soak", "sandboxes")
NO_CLOUD = ("--kills", "0", "--concurrent", "0")
# Stands in for bubblewrap, and leaves a process behind with every sandbox, in a session of its own.
LEAVING = """\
#!/usr/bin/python3 -IS
import os, sys
if os.fork() == 0:
    os.closerange(0, 4096)
    os.setsid()
    os.execv("/bin/sleep", ["sleep", "4329"])
os.execv({bubblewrap!r}, ["bwrap", *sys.argv[1:]])
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that nobody else names, and that sandboxes' users reach."""
    path = Path(tempfile.mkdtemp(prefix="workbench-soak-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def test_a_short_soak_keeps_every_promise_and_says_what_it_did() -> None:
    """All phases, every way to end a sandbox, every kind of kill; a seed makes it the same each time."""
    seed, cycles, kills = 29, 7, 3
    assert {Cycle.choose(seed, number).end for number in range(cycles)} == set(ENDS)
    assert {Kill.choose(seed, number).then for number in range(kills)} == set(THENS)
    counts = ("--cycles", f"{cycles}", "--kills", f"{kills}", "--concurrent", "5", "--talk-s", "2")
    done = cli(*SOAK, *counts, "--seed", f"{seed}", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"seed {seed}\n")
    report = json.loads(done.stdout)
    assert (report["ok"], report["failure"], report["left"], report["seed"]) == (True, "", [], seed)
    assert report["done"] == report["asked"] == {"cycles": cycles, "concurrent": 5, "kills": kills}
    assert report["figures"]["concurrent"]["lines"] == 5 * 40
    assert sum(report["figures"]["kills"]["steps"].values()) == kills


def test_what_a_sandbox_leaves_makes_a_soak_fail(root: Path) -> None:
    """A check that cannot fail is worth nothing. What was found is ended, too."""
    (root / "bwrap").write_text(LEAVING.format(bubblewrap=shutil.which("bwrap")))
    (root / "bwrap").chmod(0o755)
    before = descendants()
    env = {"PATH": f"{root}{os.pathsep}{os.environ['PATH']}"}
    progress = root / "progress.json"
    done = cli(*SOAK, "--cycles", "1", *NO_CLOUD, "--seed", "4", "--resume", str(progress), "--json", env=env)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert not report["ok"]
    assert report["failure"].startswith("cycles: cycle 0 (")
    (left,) = report["left"]
    assert left.endswith(": sleep 4329")
    assert Progress.load(progress).done["cycles"] == 0
    assert descendants() == before
    assert not [line for line in _commands() if "sleep 4329" in line]


def _commands() -> list[str]:
    done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.splitlines()


def test_an_interrupted_soak_cleans_up_and_goes_on(root: Path) -> None:
    """Ctrl-C midway; the file has what was done, and the same command does the rest."""
    progress, cycles = root / "progress.json", 16
    command = [*WORKBENCH, *SOAK, "--cycles", f"{cycles}", *NO_CLOUD, "--seed", "4", "--resume", str(progress)]
    temporary = set(Path(tempfile.gettempdir()).iterdir())
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as soak:
        wait_until(lambda: progress.exists() and Progress.load(progress).done["cycles"] >= 3, "no cycle was done")
        soak.send_signal(signal.SIGINT)
        _, said = soak.communicate(timeout=60)
    assert soak.returncode == 130, said
    assert f"--resume {progress}" in said
    assert set(Path(tempfile.gettempdir()).glob("workbench-soak-*")) <= temporary
    assert not [line for line in _commands() if "workbench-soak-" in line and str(root) not in line]
    before = Progress.load(progress).done["cycles"]
    assert 3 <= before < cycles
    refused = cli(*SOAK, "--seed", "5", "--resume", str(progress))
    assert (refused.returncode, "of another soak" in refused.stderr) == (2, True)
    report = json.loads(cli(*SOAK, "--resume", str(progress), "--json").stdout)
    assert (report["ok"], report["done"]["cycles"]) == (True, cycles)
    assert sum(report["figures"]["cycles"]["ends"].values()) == cycles - before
    assert not progress.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"seed": 1}', '{"seed":1,"asked":{},"done":{},"seconds":{}}'])
def test_a_file_that_is_no_progress_is_refused_and_kept(root: Path, content: str) -> None:
    """Somebody's file must not be written over by a slip of the keyboard."""
    (root / "mine").write_text(content)
    done = cli(*SOAK, "--resume", str(root / "mine"))
    assert (done.returncode, "no progress of a soak" in done.stderr) == (2, True)
    assert (root / "mine").read_text() == content


@contextmanager
def _process(*command: str) -> Iterator[None]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def _isolated(root: Path) -> AbstractContextManager[None]:
    where = ("--dev-bind", "/", "/", "--bind", str(root), "/mnt")
    return _process("bwrap", "--unshare-all", "--die-with-parent", *where, "sleep", "60")


def _unrelated(root: Path) -> AbstractContextManager[None]:
    """No descendant of ours any more; only its command line tells."""
    program = f"import time; time.sleep(60) # {root}"

    @contextmanager
    def orphan() -> Iterator[None]:
        start = "import os, subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=2).pid)"
        done = subprocess.run([sys.executable, "-c", start, program], stdout=subprocess.PIPE, check=True, timeout=30)
        try:
            yield
        finally:
            os.kill(int(done.stdout), signal.SIGKILL)

    return orphan()


@contextmanager
def _group(_: Path) -> Iterator[None]:
    directory = Path(f"/sys/fs/cgroup/pids/workbench-{os.getpid()}-1-planted")
    try:
        directory.mkdir()
    except OSError:
        pytest.skip("no control group can be made here")
    yield
    directory.rmdir()


@contextmanager
def _directory(root: Path) -> Iterator[None]:
    (root / "watched" / "left").mkdir()
    yield
    (root / "watched" / "left").rmdir()


@contextmanager
def _listener(_: Path) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", PORT)):
        yield


PORT = free_port()
PLANTED: dict[str, tuple[Callable[[Path], AbstractContextManager[object]], tuple[str, ...]]] = {
    "child": (lambda _: _process("sleep", "60"), ("process",)),
    "orphan": (_unrelated, ("process",)),
    "sandbox": (_isolated, ("process", "namespace mnt:", "namespace net:", "namespace pid:", "namespace user:")),
    "descriptor": (lambda root: (root / "file").open("w"), ("descriptor",)),
    "directory": (_directory, ("directory entry",)),
    "control group": (_group, ("control group",)),
    "socket": (_listener, ("listening socket", "descriptor")),
}


@pytest.mark.parametrize(("plant", "kinds"), PLANTED.values(), ids=PLANTED.keys())
def test_every_kind_of_leftover_is_seen_while_it_is_there(
    root: Path, plant: Callable[[Path], AbstractContextManager[object]], kinds: tuple[str, ...]
) -> None:
    """Seen when it is there, in the words for its kind, and not before or after."""
    (root / "watched").mkdir()
    scene = Scene(root, watched=(root / "watched",), owners={os.getpid()}, ports={PORT})
    before = scene.look()
    with ExitStack() as planted:
        planted.enter_context(plant(root))
        wait_until(lambda: all(any(thing.startswith(kind) for thing in scene.look() - before) for kind in kinds), "")
        with pytest.raises(SoakFailedError, match="round 1 left") as failure:
            scene.expect(before, "round 1", timeout_s=0.2)
        assert all(thing.startswith(kinds) for thing in failure.value.left)
    scene.expect(before, "round 2", timeout_s=10)


def test_choices_follow_from_the_seed_and_the_number_alone() -> None:
    """Else a resumed soak would be another one."""
    assert [Cycle.choose(7, number) for number in (3, 1)] == [Cycle.choose(7, number) for number in (1, 3)][::-1]
    assert Kill.choose(7, 2) == Kill.choose(7, 2) != Kill.choose(8, 2)

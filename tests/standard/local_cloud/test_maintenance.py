"""What is kept is checked, what is not needed any more is removed, and nothing that is needed."""

import hashlib
import json
import os
import random
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.support import warm
from tests.support.commands import cli as command_line
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.process import daemon, maintenance
from workbench.local_cloud.process.state_directory import STATE_VARIABLE, State
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.volumes.commit_history import History
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, Removal


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A volume with a history: a file, another content for it, and its removal."""
    database, content = Database(tmp_path / maintenance.DATABASE), ContentStore(tmp_path / maintenance.CONTENT)
    volumes = CommittedVolumes(database)
    volumes.create("vo-1", version=2)
    for data in (b"one", b"two"):
        sha256 = content.add_bytes(data)
        volumes.publish("vo-1", [Entry("a/b", "file", 0o644, 3, sha256)], author="test:")
    volumes.publish("vo-1", [Removal("a/b")], author="test:")
    content.add_bytes(b"nobody's")
    database.close()
    return tmp_path


def test_what_is_whole_is_good(state: Path) -> None:
    report = maintenance.fsck(state)
    assert report.problems == []
    assert (report.contents, report.volumes, report.commits, report.unreferenced) == (3, 1, 3, 1)


def test_only_what_nobody_needs_is_removed(state: Path) -> None:
    """Contents of the past are needed: somebody may go back."""
    assert maintenance.gc(state) == (1, len(b"nobody's"))
    assert maintenance.gc(state) == (0, 0)
    report = maintenance.fsck(state)
    assert (report.problems, report.contents, report.unreferenced) == ([], 2, 0)


def test_history_is_pruned_and_what_is_left_is_as_it_was(tmp_path: Path) -> None:
    """Every state that is still kept is what it was, at every cut; what only older ones needed can be removed."""
    chance = random.Random(9)
    for keep in range(1, 13):
        root = tmp_path / str(keep)
        root.mkdir()
        database, content = Database(root / maintenance.DATABASE), ContentStore(root / maintenance.CONTENT)
        volumes = CommittedVolumes(database)
        volumes.create("vo-1", version=2)
        for number in range(12):
            names = chance.sample("abcdefgh", 3)
            changes = [
                Removal(name)
                if volumes.entry("vo-1", name) and chance.random() < 0.5
                else Entry(name, "file", 0o644, 9, content.add_bytes(f"{name} {number}".encode()))
                for name in names
            ]
            volumes.publish("vo-1", list(changes), author="test:")
        before = {number: volumes.as_of("vo-1", number) for number in range(1, 13)}
        database.close()
        assert maintenance.prune(root, maintenance.Keep(newest=keep), now=0) == 12 - keep
        database = Database(root / maintenance.DATABASE)
        volumes = CommittedVolumes(database)
        oldest = 13 - keep
        assert volumes.oldest("vo-1") == oldest
        assert {number: volumes.as_of("vo-1", number) for number in range(oldest, 13)} == {
            number: state for number, state in before.items() if number >= oldest
        }
        history = History(volumes)
        history.restore("vo-1", "", oldest)
        if oldest > 1:
            with pytest.raises(CloudError, match="no longer kept"):
                history.diff("vo-1", "", oldest - 1, 12)
        database.close()
        needed = {entry.sha256 for number in range(oldest, 13) for entry in before[number]}
        maintenance.gc(root)
        report = maintenance.fsck(root)
        assert (report.problems, report.unreferenced, report.contents) == ([], 0, len(needed))


@pytest.mark.parametrize(("age", "left"), [("1h", 1), ("3h", 2), ("2d", 4), ("2", 2), ("100", 4)])
def test_history_is_kept_for_a_time_or_a_number(tmp_path: Path, age: str, left: int) -> None:
    database = Database(tmp_path / maintenance.DATABASE)
    volumes = CommittedVolumes(database)
    volumes.create("vo-1", version=2)
    volumes.create("vo-2", version=2)
    for number, hours in enumerate((40, 5, 2, 1.5)):
        volumes.publish("vo-1", [Entry(f"d{number}", "dir", 0o755)], author="test:")
        database.execute("UPDATE volume_commits SET at=? WHERE number=?", (1e9 - hours * 3600, number + 1))
    database.close()
    assert maintenance.prune(tmp_path, maintenance.Keep.parse(age), now=1e9) == 4 - left
    report = maintenance.fsck(tmp_path)
    assert (report.problems, report.commits) == ([], left)


@pytest.mark.parametrize("text", ["0", "-1", "1w", "d", "1.5d", "", "1e3", "٣d"])
def test_what_is_no_time_and_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a number of commits"):
        maintenance.Keep.parse(text)


def _stored(state: Path, data: bytes) -> Path:
    """The one file below a state's contents that holds some bytes."""
    files = (path for path in (state / maintenance.CONTENT).rglob("*") if path.is_file())
    [found] = [path for path in files if data in path.read_bytes()]
    return found


@pytest.mark.parametrize("size", [40, 100_000], ids=["in a pack", "a file of its own"])
def test_damage_is_found(tmp_path: Path, size: int) -> None:
    """Of small contents, whose pack holds other ones, and of large ones."""
    database, content = Database(tmp_path / maintenance.DATABASE), ContentStore(tmp_path / maintenance.CONTENT)
    volumes = CommittedVolumes(database)
    volumes.create("vo-1", version=2)
    for name in ("good", "changed", "gone"):
        sha256 = content.add_bytes(name.encode() * size)
        volumes.publish("vo-1", [Entry(name, "file", 0o644, size, sha256)], author="test:")
        content.close()  # so that each is in a file or a pack of its own
    database.close()
    for data, to in ((b"changed", b"changes"), (b"good", b"good")):
        path = _stored(tmp_path, data * size)
        path.write_bytes(path.read_bytes().replace(data, to))
    _stored(tmp_path, b"gone" * size).unlink()
    problems = maintenance.fsck(tmp_path).problems
    changed, gone = (hashlib.sha256(name * size).hexdigest() for name in (b"changed", b"gone"))
    assert sorted(problems) == sorted(
        [f"the content {changed} is damaged (volume_changes)", f"the content {gone} is missing (volume_changes)"]
    )


def test_a_manifest_that_is_not_its_history_is_found(state: Path) -> None:
    database = Database(state / maintenance.DATABASE)
    database.execute("INSERT INTO volume_entries VALUES ('vo-1','x/y','file',420,0,'','',0)")
    database.close()
    assert {problem.partition(": ")[2] for problem in maintenance.fsck(state).problems} == {
        "its files differ from those of its last commit",
        "'x/y' has no parent directory",
    }


WRITER = """
import io, os, sys, modal
name = sys.argv[1]
volume = modal.Volume.from_name(name, create_if_missing=True, version=2)
print('on', flush=True)
for number in range(10_000):
    with volume.batch_upload(force=True) as batch:
        for part in range(5):
            batch.put_file(io.BytesIO(os.urandom(20_000)), f'/{number % 7}/{part}')
    print(number, flush=True)
"""


@pytest.mark.timeout(180)
def test_a_kill_at_any_moment_leaves_the_last_commit_whole(own_state: State) -> None:
    """Whatever was acknowledged is there after the next start, and nothing is half there."""
    chance = random.Random(4)
    for kill in range(3):
        running, _ = daemon.start(own_state)
        env = {**os.environ, **running.env(), "MODAL_MAX_THROTTLE_WAIT": "1"}
        with subprocess.Popen(
            warm.words("-c", WRITER, f"volume-{kill}", env=env),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randint(2, 8)):
                writer.stdout.readline()
            cloud = psutil.Process(running.pid)
            cloud.kill()
            cloud.wait(30)
            writer.kill()
        with own_state.locked():
            report = maintenance.fsck(own_state.root)
            assert report.problems == []
            assert report.commits >= kill


def test_the_command_line_checks_and_cleans(own_state: State) -> None:
    env = {STATE_VARIABLE: str(own_state.root)}

    def cli(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return command_line("cloud", *arguments, env=env)

    daemon.start(own_state)
    refused = cli("fsck")
    assert (refused.returncode, "already runs" in refused.stderr) == (1, True)
    daemon.stop(own_state)
    assert json.loads(cli("fsck", "--json").stdout)["problems"] == []
    assert "removed 0 contents" in cli("gc").stdout
    for keep in ("", "0", "soon"):
        assert (cli("gc", "--keep", keep).returncode, cli("gc", f"--keep={keep}").returncode) == (2, 2)

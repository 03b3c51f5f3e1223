"""The soak of volumes: kills local clouds while volumes are written, and checks that acknowledged files are intact.

It also writes and reads back one large file and very many small ones. Everything is in a private directory.
"""

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from workbench.local_cloud import CommittedVolumes, Database, Objects, State, daemon, maintenance
from workbench.soak.soak_failures import SoakFailedError

VOLUME = "soak"
_PATIENCE_S = 60.0
_MAX_COMMITS_BEFORE = 6
_DELAY_S = 0.3
_BLOCK_BYTES = 1024 * 1024

Files = dict[str, str]


@dataclass
class Figures:
    """What was counted: kills, acknowledged commits, and how many seconds large transfers took."""

    kills: int = 0
    acknowledged: int = 0
    large_file_s: float = 0
    many_files_s: float = 0


def kills(state: State, seed: int, numbers: range, figures: Figures) -> Iterator[int]:
    """Kill a cloud while files are written, once for each number, and yield the number. Raises SoakFailedError."""
    known: Files = {}
    for number in numbers:
        how, pending = _round(state, seed, number, known, figures)
        found = _found(state, number)
        new = {path for path, sha256 in pending.items() if found.get(path) == sha256}
        wrong = [path for path in known if path not in new and found.get(path) != known[path]]
        if wrong:
            raise SoakFailedError(f"after kill {number}: acknowledged files are not what they were", left=wrong)
        if how == "upload" and new and new != set(pending):
            raise SoakFailedError(f"after kill {number}: only a part of an upload is there", left=sorted(new))
        known = found
        figures.kills += 1
        yield number


def _round(state: State, seed: int, number: int, known: Files, figures: Figures) -> tuple[str, Files]:
    """Write files, kill the cloud, and return how the last write was made and its files that were not acknowledged.

    Adds acknowledged files to `known`.
    """
    chance = random.Random(f"{seed}/volumes/{number}")  # noqa: S311  # to be repeated, not to be secret
    running, _ = daemon.start(state)
    command = [sys.executable, "-m", "workbench.soak.writer", VOLUME, f"{seed}-{number}"]
    how, pending = "", {}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(json.dumps(running.env()) + "\n")
        writer.stdin.flush()
        left = chance.randint(1, _MAX_COMMITS_BEFORE)
        for line in writer.stdout:
            told = json.loads(line)
            if "files" in told:
                how, pending = told["how"], told["files"]
                continue
            known.update(pending)
            pending = {}
            figures.acknowledged += 1
            left -= 1
            if left == 0:
                time.sleep(chance.uniform(0, _DELAY_S))
                cloud = psutil.Process(running.pid)
                cloud.kill()
                cloud.wait(_PATIENCE_S)
                writer.kill()  # its last messages are still in the pipe
    if left > 0:
        raise SoakFailedError(f"in round {number} the writer ended by itself")
    return how, pending


def _found(state: State, number: int) -> Files:
    with state.locked():
        report = maintenance.fsck(state.root)
        if report.problems:
            raise SoakFailedError(f"after kill {number}: {report.problems[0]}", left=report.problems)
        database = Database(state.root / maintenance.DATABASE)
        try:
            (volume_id,) = (
                found for found, name, _ in Objects(database).list("volume", environment="") if name == VOLUME
            )
            entries = CommittedVolumes(database).below(volume_id, "")
            return {entry.path: entry.sha256 for entry in entries if entry.kind == "file"}
        finally:
            database.close()


def large(state: State, *, size_mb: int, files: int, advance: Callable[[str, int], None], figures: Figures) -> None:
    """Write and read back a large file of `size_mb` MiB and `files` small ones; raises SoakFailedError."""
    running, _ = daemon.start(state)
    os.environ.update(running.env())
    import modal  # after the variables that it reads when it is imported

    with modal.Volume.ephemeral(version=2) as volume:
        if size_mb:
            figures.large_file_s = _timed(lambda: _large_file(volume, state.root, size_mb, advance))
        if files:
            figures.many_files_s = _timed(lambda: _many_files(volume, files, advance))
    daemon.stop(state)


def _large_file(volume: object, root: Path, size_mb: int, advance: Callable[[str, int], None]) -> None:
    source = root / "large"
    digest = hashlib.sha256()
    with source.open("wb") as file:
        for _ in range(size_mb):
            block = os.urandom(_BLOCK_BYTES)
            digest.update(block)
            file.write(block)
    with volume.batch_upload() as batch:  # type: ignore[attr-defined]  # a Volume; the SDK is imported late
        batch.put_file(str(source), "/large")
    source.unlink()
    back = hashlib.sha256()
    for chunk in volume.read_file("large"):  # type: ignore[attr-defined]  # see above
        back.update(chunk)
        advance("large", len(chunk))
    if back.digest() != digest.digest():
        raise SoakFailedError("the large file came back with other bytes")


def _many_files(volume: object, count: int, advance: Callable[[str, int], None]) -> None:
    with volume.batch_upload() as batch:  # type: ignore[attr-defined]  # see above
        for number in range(count):
            batch.put_file(io.BytesIO(b"%d" % number), f"/many/{number % 100}/{number}")
    sizes = {
        entry.path: entry.size
        for entry in volume.iterdir("/many", recursive=True)  # type: ignore[attr-defined]  # see above
        if entry.type.name == "FILE"
    }
    advance("many", count)
    wanted = {f"many/{number % 100}/{number}": len(str(number)) for number in range(count)}
    if sizes != wanted:
        raise SoakFailedError(f"{len(sizes)} of {count} small files came back")
    for number in range(0, count, max(1, count // 100)):
        if b"".join(volume.read_file(f"many/{number % 100}/{number}")) != b"%d" % number:  # type: ignore[attr-defined]  # see above
            raise SoakFailedError(f"the small file {number} came back with other bytes")


def _timed(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return round(time.monotonic() - started, 2)

"""Maintenance of a cloud's state: checks that it is complete and undamaged, and removes what nothing refers to.

For the state directory of a cloud that does not run; the caller must hold its lock.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from workbench.local_cloud.base.guest_directories import remove_tree
from workbench.local_cloud.images import inventory
from workbench.local_cloud.rootfs.ids import NoRangeError
from workbench.local_cloud.rootfs.layers import LayerError, remove_layers
from workbench.local_cloud.store import damage
from workbench.local_cloud.store.content import ContentStore, read_chunks
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.volumes.committed import CommittedVolumes, parents
from workbench.local_cloud.volumes.stacks import LAYERS

DATABASE = damage.DATABASE
CONTENT = "content"
_REFERENCES = {
    "volume_entries": "SELECT DISTINCT sha256 FROM volume_entries WHERE sha256<>''",
    "volume_changes": "SELECT DISTINCT sha256 FROM volume_changes WHERE sha256<>'' AND sha256 IS NOT NULL",
    "mount_files": "SELECT DISTINCT sha256 FROM mount_files",
    "snapshots": "SELECT DISTINCT sha256 FROM snapshots WHERE sha256<>''",
    "blobs": "SELECT DISTINCT sha256 FROM blobs WHERE sha256 IS NOT NULL",
}
Progress = Callable[[int, int], None]  # gets (contents that are checked, all contents)


@dataclass
class Report:
    """What a check found, sizes in bytes. Nothing is wrong when `problems`, each a sentence, is empty."""

    contents: int = 0
    size: int = 0
    volumes: int = 0
    commits: int = 0
    problems: list[str] = field(default_factory=list)
    unreferenced: int = 0
    unreferenced_size: int = 0


def fsck(state: Path, *, progress: Progress = lambda done, total: None) -> Report:
    """Check every content against its sha256, every reference to one, and every manifest against its history.

    Raises DamagedStateError when the database cannot be read.
    """
    damage.check(state)
    report = Report()
    database, content = Database(state / DATABASE), ContentStore(state / CONTENT)
    try:
        _check_contents(database, content, report, progress)
        _check_volumes(database, report)
        report.problems += inventory.missing(state, database)
    finally:
        content.close()
        database.close()
    return report


@dataclass(frozen=True)
class Keep:
    """Which commits of each volume to keep: the `newest` so many, or those of the last `age_s` seconds.

    The last commit is always kept.
    """

    newest: int = 0
    age_s: float = 0

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Parse a number of commits, or a time such as `12h` or `30d`. Raises ValueError."""
        found = re.fullmatch(r"([1-9]\d{0,8})([hd]?)", text.strip(), re.ASCII)
        if found is None:
            raise ValueError(
                f"'{text[:50]}' is neither a number of commits, such as 100, nor a time, such as 12h or 30d"
            )
        count, unit = int(found[1]), found[2]
        return cls(age_s=count * {"h": 3600, "d": 86_400}[unit]) if unit else cls(newest=count)


def prune(state: Path, keep: Keep, *, now: float) -> int:
    """Delete the older commits of every volume and return how many. Files and later commits stay as they are.

    Contents that only those commits had are removed by `gc`. `now` is in Unix seconds. Raises DamagedStateError, before
    anything is deleted, when the database cannot be read.
    """
    damage.check(state)
    database = Database(state / DATABASE)
    try:
        committed = CommittedVolumes(database)
        since = now - keep.age_s if keep.age_s else 0
        return sum(
            committed.prune(volume_id, committed.oldest(volume_id, since=since, newest=keep.newest))
            for row in database.all("SELECT volume_id FROM volumes")
            if (volume_id := str(row["volume_id"]))
        )
    finally:
        database.close()


def gc(state: Path) -> tuple[int, int]:
    """Remove contents and image directories that nothing refers to; returns (how many, their bytes).

    Files of volumes that are laid out for mounts are removed as well: the next mount lays them out again.
    Commits refer to their contents, so `prune` comes first. Raises DamagedStateError, before anything is removed, when
    the database cannot be read; StateError when something cannot be removed.
    """
    damage.check(state)
    database, content = Database(state / DATABASE), ContentStore(state / CONTENT)
    try:
        wanted = set(_references(database))
        removed, size = content.keep_only(wanted)
        with _removing(state):
            of_images = inventory.collect(state, database)
        remove_tree(state / LAYERS)
        return removed + of_images[0], size + of_images[1]
    finally:
        content.close()
        database.close()


def remove_all(state: Path, *, keep: str) -> None:
    """Remove all that is in a state directory, damaged or not, but for one name.

    Raises StateError when something cannot be removed.
    """
    rootfs = state / inventory.ROOTFS
    with _removing(state):
        for path in state.glob(f"{DATABASE}*"):
            path.unlink()  # first: of a removal that is cut off, nothing is left that another cloud takes for whole
        inside = [path for part in (inventory.LAYERS, inventory.LIVE) for path in rootfs.glob(f"{part}/*")]
        remove_layers(rootfs, inside)
        for path in state.iterdir():
            if path.name == keep:
                continue
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def _removing(state: Path) -> Iterator[None]:
    """Turn what keeps files from being removed into a StateError."""
    try:
        yield
    except (OSError, LayerError, NoRangeError) as error:
        raise damage.StateError(f"not all files could be removed in {state}: {error}") from error


def images(state: Path) -> list[inventory.Listed]:
    """Return all images of a state directory, whose cloud may run. Raises DamagedStateError."""
    damage.check(state)
    database = Database(state / DATABASE)
    try:
        return inventory.listed(state, database)
    finally:
        database.close()


def prune_images(state: Path, *, before: float) -> inventory.Pruned:
    """Remove images that nothing uses and that were built before a time (Unix seconds). Raises StateError."""
    damage.check(state)
    database = Database(state / DATABASE)
    try:
        with _removing(state):
            return inventory.prune(state, database, before=before)
    finally:
        database.close()


def _references(database: Database) -> dict[str, str]:
    """Return every sha256 that the database refers to, with a table that does."""
    tables = {str(row["name"]) for row in database.all("SELECT name FROM sqlite_master WHERE type='table'")}
    return {
        str(row["sha256"]): table
        for table, query in _REFERENCES.items()
        if table in tables
        for row in database.all(query)
    }


def _check_contents(database: Database, content: ContentStore, report: Report, progress: Progress) -> None:
    wanted = _references(database)
    contents = list(content.contents())
    for done, found in enumerate(contents):
        progress(done, len(contents))
        name = found.sha256
        report.contents += 1
        report.size += found.size
        if name not in wanted:
            report.unreferenced += 1
            report.unreferenced_size += found.size
        try:
            is_whole = _hash(content, name) == name
        except FileNotFoundError:
            continue  # the index knows it, but its pack is gone
        if not is_whole:
            report.problems.append(f"the content {name} is damaged" + (f" ({wanted[name]})" if name in wanted else ""))
        wanted.pop(name, None)
    report.problems += [f"the content {name} is missing ({table})" for name, table in wanted.items()]


def _check_volumes(database: Database, report: Report) -> None:
    committed = CommittedVolumes(database)
    for row in database.all("SELECT volume_id FROM volumes"):
        volume_id = str(row["volume_id"])
        head = committed.head(volume_id)
        report.volumes += 1
        commits = len(committed.commits(volume_id, limit=head + 1))
        report.commits += commits
        manifest = committed.below(volume_id, "")
        if manifest != committed.as_of(volume_id, head):
            report.problems.append(f"volume {volume_id}: its files differ from those of its last commit")
        kinds = {entry.path: entry.kind for entry in manifest}
        for entry in manifest:
            if any(kinds.get(parent) != "dir" for parent in parents(entry.path)):
                report.problems.append(f"volume {volume_id}: '{entry.path}' has no parent directory")
        if head and commits != head - committed.oldest(volume_id) + 1:
            report.problems.append(f"volume {volume_id}: a commit is missing")


def _hash(content: ContentStore, sha256: str) -> str:
    """Return the sha256 of a content's bytes, "" when they cannot be read; raises FileNotFoundError."""
    digest = hashlib.sha256()
    try:
        with content.open(sha256) as file:
            for chunk in read_chunks(file):
                digest.update(chunk)
    except FileNotFoundError:
        raise
    except OSError:
        return ""
    return digest.hexdigest()

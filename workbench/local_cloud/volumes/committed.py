"""The committed state of volumes: a manifest per volume and the change set of every commit, in SQLite.

Commits are per-file last-write-wins. Paths are relative, with `/` between names and none at either end. What a commit
really changed, implied parents and replaced subtrees included, is its change set: history and diff come from it.
"""

import sqlite3
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.store.database import Database

MAX_PATH_BYTES = 4096  # the kernel's own limit for one path
MAX_NAME_BYTES = 255

_DDL = """
CREATE TABLE IF NOT EXISTS volumes (volume_id TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS volume_commits (
  volume_id TEXT NOT NULL REFERENCES volumes ON DELETE CASCADE, number INTEGER NOT NULL, parent INTEGER NOT NULL,
  at REAL NOT NULL, author TEXT NOT NULL, PRIMARY KEY (volume_id, number)
);
CREATE TABLE IF NOT EXISTS volume_changes (
  volume_id TEXT NOT NULL REFERENCES volumes ON DELETE CASCADE, number INTEGER NOT NULL, path TEXT NOT NULL, kind TEXT,
  mode INTEGER, size INTEGER, sha256 TEXT, target TEXT, mtime REAL, PRIMARY KEY (volume_id, path, number)
);
CREATE TABLE IF NOT EXISTS volume_entries (
  volume_id TEXT NOT NULL REFERENCES volumes ON DELETE CASCADE, path TEXT NOT NULL, kind TEXT NOT NULL,
  mode INTEGER NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL, target TEXT NOT NULL, mtime REAL NOT NULL,
  PRIMARY KEY (volume_id, path)
);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or symbolic link of a volume. `mtime` is in Unix seconds, `size` in bytes."""

    path: str
    kind: Literal["file", "dir", "symlink"]
    mode: int
    size: int = 0
    sha256: str = ""
    target: str = ""
    mtime: float = 0

    def same_as(self, other: "Entry") -> bool:
        """Whether both hold the same thing; times do not count."""
        return (self.kind, self.mode, self.sha256, self.target) == (other.kind, other.mode, other.sha256, other.target)


@dataclass(frozen=True, slots=True)
class Removal:
    """A path that a commit takes away. A directory stays while it holds entries that the commit does not remove."""

    path: str


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: `parent` is the newest commit that its author had seen, `author` is `kind:id`."""

    number: int
    parent: int
    at: float
    author: str


def clean(path: str) -> str:
    """Normalise a path that a client gave, "" being the root; raises CloudError INVALID_ARGUMENT for `..` and NUL."""
    if "\0" in path:
        raise invalid("A volume path must not hold NUL.")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise invalid("A volume path must not hold '..'.")
    if len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise invalid(f"A volume path is at most {MAX_PATH_BYTES} bytes, each name in it {MAX_NAME_BYTES}.")
    return "/".join(parts)


def parents(path: str) -> list[str]:
    """The directories above a path, outermost first, without the root."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]


class CommittedVolumes:
    """Publishes change sets and reads manifests. May be called from any thread: the database serialises."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.script(_DDL)

    def create(self, volume_id: str, *, version: int) -> None:
        """Make an empty volume; nothing happens when it is there."""
        self._db.execute("INSERT OR IGNORE INTO volumes VALUES (?,?)", (volume_id, version))

    def version(self, volume_id: str) -> int:
        """The volume's file system version, 1 or 2; raises CloudError NOT_FOUND."""
        row = self._db.one("SELECT version FROM volumes WHERE volume_id=?", (volume_id,))
        if row is None:
            raise not_found(f"Volume {volume_id} not found.")
        return int(row["version"])

    def drop(self, volume_id: str) -> None:
        """Forget a volume's entries and commits."""
        self._db.execute("DELETE FROM volumes WHERE volume_id=?", (volume_id,))

    def transaction(self) -> AbstractContextManager[None]:
        """Make reads and a publish that depends on them one step."""
        return self._db.transaction(durable=True)

    def publish(self, volume_id: str, changes: list[Entry | Removal], *, author: str, parent: int | None = None) -> int:
        """Apply a change set as one commit and return its number; all of it or nothing.

        `parent` is the newest commit that the author had seen, by default the newest. Raises CloudError NOT_FOUND
        when the volume is gone.
        """
        with self._db.transaction(durable=True):
            self.version(volume_id)
            number = self.head(volume_id) + 1
            self._db.execute(
                "INSERT INTO volume_commits VALUES (?,?,?,?,?)",
                (volume_id, number, number - 1 if parent is None else parent, time.time(), author),
            )
            removals = [change.path for change in changes if isinstance(change, Removal)]
            for path in sorted(removals, reverse=True):  # what is below a directory before the directory
                self._remove(volume_id, number, path)
            known: set[str] = set()
            for entry in sorted((c for c in changes if isinstance(c, Entry)), key=lambda entry: entry.path):
                self._add_parents(volume_id, number, entry.path, known)
                self._put(volume_id, number, entry)
        return number

    def _remove(self, volume_id: str, number: int, path: str) -> None:
        low, high = _below(path)
        removed = self._db.execute(
            "DELETE FROM volume_entries WHERE volume_id=? AND path=? AND NOT EXISTS "
            "(SELECT 1 FROM volume_entries WHERE volume_id=? AND path>? AND path<?)",
            (volume_id, path, volume_id, low, high),
        )
        if removed:
            self._log_removal(volume_id, number, path)

    def _add_parents(self, volume_id: str, number: int, path: str, known: set[str]) -> None:
        for parent in parents(path):
            if parent in known:
                continue
            found = self.entry(volume_id, parent)
            if found is None or found.kind != "dir":
                self._put(volume_id, number, Entry(parent, "dir", 0o755, mtime=time.time()))
            known.add(parent)

    def _put(self, volume_id: str, number: int, entry: Entry) -> None:
        if entry.kind != "dir":
            low, high = _below(entry.path)
            where = "volume_id=? AND path>? AND path<?"
            for row in self._db.all(f"SELECT path FROM volume_entries WHERE {where}", (volume_id, low, high)):  # noqa: S608  # fixed text
                self._log_removal(volume_id, number, str(row["path"]))
            self._db.execute(f"DELETE FROM volume_entries WHERE {where}", (volume_id, low, high))  # noqa: S608  # fixed text
        values = (entry.kind, entry.mode, entry.size, entry.sha256, entry.target, entry.mtime)
        self._db.execute(
            "INSERT OR REPLACE INTO volume_entries VALUES (?,?,?,?,?,?,?,?)", (volume_id, entry.path, *values)
        )
        self._db.execute(
            "INSERT OR REPLACE INTO volume_changes VALUES (?,?,?,?,?,?,?,?,?)", (volume_id, number, entry.path, *values)
        )

    def _log_removal(self, volume_id: str, number: int, path: str) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO volume_changes (volume_id, number, path) VALUES (?,?,?)", (volume_id, number, path)
        )

    def entry(self, volume_id: str, path: str) -> Entry | None:
        """One entry; the root is always a directory."""
        if path == "":
            return Entry("", "dir", 0o755)
        row = self._db.one("SELECT * FROM volume_entries WHERE volume_id=? AND path=?", (volume_id, path))
        return None if row is None else _entry(row)

    def below(self, volume_id: str, path: str, *, recursive: bool = True) -> list[Entry]:
        """Every entry below a directory, in order of paths; without `recursive` its own entries only."""
        low, high = _below(path) if path else ("", "\U0010ffff")
        skip = len(path) + 1 if path else 0
        rows = self._db.all(
            "SELECT * FROM volume_entries WHERE volume_id=? AND path>? AND path<? "
            "AND (? OR instr(substr(path, ?), '/')=0) ORDER BY path",
            (volume_id, low, high, recursive, skip + 1),
        )
        return [_entry(row) for row in rows]

    def size_below(self, volume_id: str, path: str) -> int:
        """The lengths of all files below a directory together, in bytes."""
        low, high = _below(path) if path else ("", "\U0010ffff")
        row = self._db.one(
            "SELECT SUM(size) AS size FROM volume_entries WHERE volume_id=? AND path>? AND path<?",
            (volume_id, low, high),
        )
        return int(row["size"] or 0) if row is not None else 0

    def prune(self, volume_id: str, oldest: int) -> int:
        """Forget the commits before `oldest`, which stays as it is with all after it; returns how many were there."""
        with self._db.transaction(durable=True):
            oldest = min(oldest, self.head(volume_id))
            forgotten = self._db.execute(
                "DELETE FROM volume_commits WHERE volume_id=? AND number<?", (volume_id, oldest)
            )
            # Of each path, the state that it had at the oldest commit is its first now; one that was gone has none.
            self._db.execute(
                "DELETE FROM volume_changes AS old WHERE volume_id=? AND number<=? AND (number<? AND EXISTS (SELECT 1 "
                "FROM volume_changes AS newer WHERE newer.volume_id=old.volume_id AND newer.path=old.path "
                "AND newer.number>old.number AND newer.number<=?) OR number<? AND kind IS NULL)",
                (volume_id, oldest, oldest, oldest, oldest),
            )
        return forgotten

    def oldest(self, volume_id: str, *, since: float = 0, newest: int = 0) -> int:
        """The oldest commit among those not older than `since`, and among the `newest` ones when that is given.

        The newest of all when none is; 0 when there are no commits.
        """
        row = self._db.one(
            "SELECT MIN(number) AS first FROM volume_commits WHERE volume_id=? AND at>=?", (volume_id, since)
        )
        head = self.head(volume_id)
        first = int(row["first"]) if row is not None and row["first"] is not None else head
        return max(first, head - newest + 1) if newest else first

    def at(self, volume_id: str, sub_path: str) -> dict[str, Entry]:
        """The entries below a sub-path, by paths relative to it."""
        skip = len(sub_path) + 1 if sub_path else 0
        entries = [replace(entry, path=entry.path[skip:]) for entry in self.below(volume_id, sub_path)]
        return {entry.path: entry for entry in entries}

    def head(self, volume_id: str) -> int:
        """The number of the newest commit, 0 for none."""
        row = self._db.one("SELECT MAX(number) AS last FROM volume_commits WHERE volume_id=?", (volume_id,))
        return int(row["last"] or 0) if row is not None else 0

    def has(self, volume_id: str, number: int) -> bool:
        """Whether a commit is kept."""
        sql = "SELECT 1 FROM volume_commits WHERE volume_id=? AND number=?"
        return self._db.one(sql, (volume_id, number)) is not None

    def commits(self, volume_id: str, *, limit: int = 100) -> list[Commit]:
        """The newest commits, newest first."""
        rows = self._db.all(
            "SELECT number, parent, at, author FROM volume_commits WHERE volume_id=? ORDER BY number DESC LIMIT ?",
            (volume_id, limit),
        )
        return [Commit(**dict(row)) for row in rows]

    def changes(self, volume_id: str, number: int, *, below: str = "") -> list[Entry | Removal]:
        """What one commit changed at or below a path, in order of paths."""
        rows = self._db.all(
            "SELECT * FROM volume_changes WHERE volume_id=? AND number=? AND (path=? OR (path>? AND path<?)) "
            "ORDER BY path",
            (volume_id, number, *_range(below)),
        )
        return [Removal(str(row["path"])) if row["kind"] is None else _entry(row) for row in rows]

    def as_of(self, volume_id: str, number: int, *, below: str = "") -> list[Entry]:
        """Every entry at or below a path as it was right after a commit, in order of paths."""
        rows = self._db.all(
            "SELECT * FROM (SELECT *, MAX(number) FROM volume_changes WHERE volume_id=? AND number<=? "
            "AND (path=? OR (path>? AND path<?)) GROUP BY path) WHERE kind IS NOT NULL ORDER BY path",
            (volume_id, number, *_range(below)),
        )
        return [_entry(row) for row in rows]

    def touching(self, volume_id: str, path: str, *, limit: int) -> list[Commit]:
        """The newest commits that changed something at or below a path, newest first."""
        rows = self._db.all(
            "SELECT number, parent, at, author FROM volume_commits WHERE volume_id=? AND number IN "
            "(SELECT number FROM volume_changes WHERE volume_id=? AND (path=? OR (path>? AND path<?))) "
            "ORDER BY number DESC LIMIT ?",
            (volume_id, volume_id, *_range(path), limit),
        )
        return [Commit(**dict(row)) for row in rows]

    def versions(self, volume_id: str, path: str) -> list[tuple[int, Entry | None]]:
        """Every state that a path was ever committed in, with the commit, oldest first; None where it was removed."""
        rows = self._db.all(
            "SELECT * FROM volume_changes WHERE volume_id=? AND path=? ORDER BY number", (volume_id, path)
        )
        return [(int(row["number"]), None if row["kind"] is None else _entry(row)) for row in rows]


def _range(path: str) -> tuple[str, str, str]:
    """The parameters of "at or below a path": the path itself, and bounds that what is below it lies between."""
    return (path, *_below(path)) if path else ("", "", "\U0010ffff")


def _below(path: str) -> tuple[str, str]:
    return path + "/", path + "0"  # "0" follows "/" in ASCII: the range holds exactly what is below


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(row["path"], row["kind"], row["mode"], row["size"], row["sha256"], row["target"], row["mtime"])

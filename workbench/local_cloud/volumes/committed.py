"""The committed state of volumes: a manifest per volume and the change set of every commit, in SQLite.

The last commit of a file wins. Paths are relative, with `/` between names and none at either end. A commit's change set
is everything that it changed, with the parent directories that it made and the trees that it replaced; history and diff
are read from it.
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
CREATE INDEX IF NOT EXISTS volume_changes_by_commit ON volume_changes (volume_id, number, path);
CREATE TABLE IF NOT EXISTS volume_entries (
  volume_id TEXT NOT NULL REFERENCES volumes ON DELETE CASCADE, path TEXT NOT NULL, kind TEXT NOT NULL,
  mode INTEGER NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL, target TEXT NOT NULL, mtime REAL NOT NULL,
  PRIMARY KEY (volume_id, path)
);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or symbolic link of a volume.

    `mode` has the permission bits, `mtime` is in Unix seconds. `size` (bytes) and `sha256` are set for files only,
    `target` for symbolic links only.
    """

    path: str
    kind: Literal["file", "dir", "symlink"]
    mode: int
    size: int = 0
    sha256: str = ""
    target: str = ""
    mtime: float = 0

    def same_as(self, other: "Entry") -> bool:
        """Whether both have the same kind, mode and content; times are not compared."""
        return (self.kind, self.mode, self.sha256, self.target) == (other.kind, other.mode, other.sha256, other.target)


@dataclass(frozen=True, slots=True)
class Removal:
    """A path that a commit removes. A directory stays if it holds entries that the commit does not remove."""

    path: str


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: `parent` is the newest commit that its author had seen, `at` Unix seconds, `author` `kind:id`."""

    number: int
    parent: int
    at: float
    author: str


def clean(path: str) -> str:
    """Return a client's path in normal form, "" for the root.

    Raises CloudError INVALID_ARGUMENT for a path with `..` or NUL, and for one that is too long.
    """
    if "\0" in path:
        raise invalid("A path in a volume must not contain a NUL character.")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise invalid(f"A path in a volume must not contain '..', as '{path[:200]}' does.")
    if len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise invalid(
            f"A path in a volume is at most {MAX_PATH_BYTES} bytes, and each name in it at most {MAX_NAME_BYTES}; "
            f"'{path[:50]}…' is longer."
        )
    return "/".join(parts)


def parents(path: str) -> list[str]:
    """Return the directories above a path, outermost first, without the root."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]


class CommittedVolumes:
    """Publishes change sets and reads manifests. May be called from any thread: the database has a lock."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.script(_DDL)

    def create(self, volume_id: str, *, version: int) -> None:
        """Make an empty volume with a file system version, 1 or 2; does nothing when the volume exists."""
        self._db.execute("INSERT OR IGNORE INTO volumes VALUES (?,?)", (volume_id, version))

    def version(self, volume_id: str) -> int:
        """Return the volume's file system version, 1 or 2; raises CloudError NOT_FOUND."""
        row = self._db.one("SELECT version FROM volumes WHERE volume_id=?", (volume_id,))
        if row is None:
            raise not_found(f"Volume {volume_id} not found.")
        return int(row["version"])

    def drop(self, volume_id: str) -> None:
        """Delete a volume's entries and commits."""
        self._db.execute("DELETE FROM volumes WHERE volume_id=?", (volume_id,))

    def transaction(self) -> AbstractContextManager[None]:
        """Return a transaction, for reads and a publish that depends on them. It is durable."""
        return self._db.transaction(durable=True)

    def publish(self, volume_id: str, changes: list[Entry | Removal], *, author: str, parent: int | None = None) -> int:
        """Apply a change set as one commit, completely or not at all, and return its number.

        `parent` is the newest commit that the author had seen, by default the newest. Raises CloudError NOT_FOUND
        when the volume was deleted.
        """
        with self._db.transaction(durable=True):
            self.version(volume_id)
            number = self.head(volume_id) + 1
            self._db.execute(
                "INSERT INTO volume_commits VALUES (?,?,?,?,?)",
                (volume_id, number, number - 1 if parent is None else parent, time.time(), author),
            )
            removals = [change.path for change in changes if isinstance(change, Removal)]
            for path in sorted(removals, reverse=True):  # a directory after everything below it
                self._remove(volume_id, number, path)
            self._put(volume_id, number, sorted((c for c in changes if isinstance(c, Entry)), key=lambda c: c.path))
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

    def _put(self, volume_id: str, number: int, entries: list[Entry]) -> None:
        """Add or replace entries, which must be in order of paths, with the directories above them.

        What lies below a directory that becomes something else is removed. All is written at once, because a commit may
        have tens of thousands of entries; nothing of it lies below an entry that comes later.
        """
        kinds: dict[str, str | None] = {}  # of the paths that were looked up, as they are with what is put so far
        put: list[Entry] = []
        for entry in entries:
            for parent in parents(entry.path):
                if self._kind(volume_id, parent, kinds) != "dir":
                    put.append(Entry(parent, "dir", 0o755, mtime=time.time()))
                    kinds[parent] = "dir"
            if entry.kind != "dir" and self._kind(volume_id, entry.path, kinds) == "dir":
                self._remove_below(volume_id, number, entry.path)
            kinds[entry.path] = entry.kind
            put.append(entry)
        rows = [(e.path, e.kind, e.mode, e.size, e.sha256, e.target, e.mtime) for e in put]
        self._db.executemany(
            "INSERT OR REPLACE INTO volume_entries VALUES (?,?,?,?,?,?,?,?)", [(volume_id, *row) for row in rows]
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO volume_changes VALUES (?,?,?,?,?,?,?,?,?)",
            [(volume_id, number, *row) for row in rows],
        )

    def _kind(self, volume_id: str, path: str, kinds: dict[str, str | None]) -> str | None:
        if path not in kinds:
            row = self._db.one("SELECT kind FROM volume_entries WHERE volume_id=? AND path=?", (volume_id, path))
            kinds[path] = None if row is None else str(row["kind"])
        return kinds[path]

    def _remove_below(self, volume_id: str, number: int, path: str) -> None:
        low, high = _below(path)
        where = "volume_id=? AND path>? AND path<?"
        for row in self._db.all(f"SELECT path FROM volume_entries WHERE {where}", (volume_id, low, high)):  # noqa: S608  # fixed text
            self._log_removal(volume_id, number, str(row["path"]))
        self._db.execute(f"DELETE FROM volume_entries WHERE {where}", (volume_id, low, high))  # noqa: S608  # fixed text

    def _log_removal(self, volume_id: str, number: int, path: str) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO volume_changes (volume_id, number, path) VALUES (?,?,?)", (volume_id, number, path)
        )

    def entry(self, volume_id: str, path: str) -> Entry | None:
        """Return one entry, None when there is none; the root is always a directory."""
        if path == "":
            return Entry("", "dir", 0o755)
        row = self._db.one("SELECT * FROM volume_entries WHERE volume_id=? AND path=?", (volume_id, path))
        return None if row is None else _entry(row)

    def below(self, volume_id: str, path: str, *, recursive: bool = True) -> list[Entry]:
        """Return every entry below a directory, in order of paths; without `recursive` only those directly in it."""
        low, high = _below(path) if path else ("", "\U0010ffff")
        skip = len(path) + 1 if path else 0
        rows = self._db.all(
            "SELECT * FROM volume_entries WHERE volume_id=? AND path>? AND path<? "
            "AND (? OR instr(substr(path, ?), '/')=0) ORDER BY path",
            (volume_id, low, high, recursive, skip + 1),
        )
        return [_entry(row) for row in rows]

    def size_below(self, volume_id: str, path: str) -> int:
        """Return the sum of the lengths of all files below a directory, in bytes."""
        low, high = _below(path) if path else ("", "\U0010ffff")
        row = self._db.one(
            "SELECT SUM(size) AS size FROM volume_entries WHERE volume_id=? AND path>? AND path<?",
            (volume_id, low, high),
        )
        return int(row["size"] or 0) if row is not None else 0

    def extent_below(self, volume_id: str, path: str, *, at_most: int) -> tuple[int, int]:
        """Return (how many entries, their bytes) below a directory; no more than `at_most` entries are looked at."""
        low, high = _below(path) if path else ("", "\U0010ffff")
        row = self._db.one(
            "SELECT COUNT(*) AS entries, SUM(size) AS size FROM "
            "(SELECT size FROM volume_entries WHERE volume_id=? AND path>? AND path<? LIMIT ?)",
            (volume_id, low, high, at_most),
        )
        return (0, 0) if row is None else (int(row["entries"]), int(row["size"] or 0))

    def prune(self, volume_id: str, oldest: int) -> int:
        """Delete the commits before the commit `oldest`, and return how many they were. Later ones stay readable."""
        with self._db.transaction(durable=True):
            oldest = min(oldest, self.head(volume_id))
            forgotten = self._db.execute(
                "DELETE FROM volume_commits WHERE volume_id=? AND number<?", (volume_id, oldest)
            )
            # Each path keeps its last change up to the oldest commit, which is its state there, unless that is an
            # older removal.
            self._db.execute(
                "DELETE FROM volume_changes AS old WHERE volume_id=? AND number<=? AND (number<? AND EXISTS (SELECT 1 "
                "FROM volume_changes AS newer WHERE newer.volume_id=old.volume_id AND newer.path=old.path "
                "AND newer.number>old.number AND newer.number<=?) OR number<? AND kind IS NULL)",
                (volume_id, oldest, oldest, oldest, oldest),
            )
        return forgotten

    def oldest(self, volume_id: str, *, since: float = 0, newest: int = 0) -> int:
        """Return the oldest commit that is made at `since` (Unix seconds) or later.

        With `newest`, it is also one of the so many newest commits. When all are older, this is the newest commit; 0
        when there are no commits.
        """
        row = self._db.one(
            "SELECT MIN(number) AS first FROM volume_commits WHERE volume_id=? AND at>=?", (volume_id, since)
        )
        head = self.head(volume_id)
        first = int(row["first"]) if row is not None and row["first"] is not None else head
        return max(first, head - newest + 1) if newest else first

    def at(self, volume_id: str, sub_path: str) -> dict[str, Entry]:
        """Return the entries below a sub-path, by their paths relative to it."""
        skip = len(sub_path) + 1 if sub_path else 0
        entries = [replace(entry, path=entry.path[skip:]) for entry in self.below(volume_id, sub_path)]
        return {entry.path: entry for entry in entries}

    def head(self, volume_id: str) -> int:
        """Return the number of the newest commit, 0 when there is none."""
        row = self._db.one("SELECT MAX(number) AS last FROM volume_commits WHERE volume_id=?", (volume_id,))
        return int(row["last"] or 0) if row is not None else 0

    def has(self, volume_id: str, number: int) -> bool:
        """Whether the volume has a commit with this number."""
        sql = "SELECT 1 FROM volume_commits WHERE volume_id=? AND number=?"
        return self._db.one(sql, (volume_id, number)) is not None

    def mark(self, volume_id: str, number: int) -> str:
        """Return what tells a commit from one of the same number in another history; for 0, the first commit's.

        Raises ValueError when the history does not have it, or not any more.
        """
        sql = "SELECT at, author, parent FROM volume_commits WHERE volume_id=? AND number=?"
        row = self._db.one(sql, (volume_id, number or 1))
        if row is None:
            raise ValueError(f"the volume has no commit {number}")
        return f"{number} {row['at']!r} {row['author']} {row['parent']}"

    def commits(self, volume_id: str, *, limit: int = 100) -> list[Commit]:
        """Return the newest `limit` commits, newest first."""
        rows = self._db.all(
            "SELECT number, parent, at, author FROM volume_commits WHERE volume_id=? ORDER BY number DESC LIMIT ?",
            (volume_id, limit),
        )
        return [Commit(**dict(row)) for row in rows]

    def changes(self, volume_id: str, number: int, *, below: str = "") -> list[Entry | Removal]:
        """Return what one commit changed at or below a path, in order of paths."""
        rows = self._db.all(
            "SELECT * FROM volume_changes WHERE volume_id=? AND number=? AND (path=? OR (path>? AND path<?)) "
            "ORDER BY path",
            (volume_id, number, *_range(below)),
        )
        return [Removal(str(row["path"])) if row["kind"] is None else _entry(row) for row in rows]

    def as_of(self, volume_id: str, number: int, *, below: str = "") -> list[Entry]:
        """Return every entry at or below a path as it was right after a commit, in order of paths."""
        rows = self._db.all(
            "SELECT * FROM (SELECT *, MAX(number) FROM volume_changes WHERE volume_id=? AND number<=? "
            "AND (path=? OR (path>? AND path<?)) GROUP BY path) WHERE kind IS NOT NULL ORDER BY path",
            (volume_id, number, *_range(below)),
        )
        return [_entry(row) for row in rows]

    def at_commit(self, volume_id: str, number: int, path: str) -> Entry | None:
        """Return one entry as it was right after a commit, None when there was none."""
        row = self._db.one(
            "SELECT * FROM volume_changes WHERE volume_id=? AND path=? AND number<=? ORDER BY number DESC LIMIT 1",
            (volume_id, path, number),
        )
        return None if row is None or row["kind"] is None else _entry(row)

    def changed_since(self, volume_id: str, number: int, *, below: str) -> dict[str, int]:
        """Return the paths below a directory that commits after `number` have changed, each with the last of them."""
        _, low, high = _range(below)
        rows = self._db.all(
            "SELECT path, MAX(number) AS last FROM volume_changes INDEXED BY volume_changes_by_commit "
            "WHERE volume_id=? AND number>? AND path>? AND path<? GROUP BY path ORDER BY path",
            (volume_id, number, low, high),
        )
        return {str(row["path"]): int(row["last"]) for row in rows}

    def touching(self, volume_id: str, path: str, *, limit: int) -> list[Commit]:
        """Return the newest `limit` commits that changed something at or below a path, newest first."""
        rows = self._db.all(
            "SELECT number, parent, at, author FROM volume_commits WHERE volume_id=? AND number IN "
            "(SELECT number FROM volume_changes WHERE volume_id=? AND (path=? OR (path>? AND path<?))) "
            "ORDER BY number DESC LIMIT ?",
            (volume_id, volume_id, *_range(path), limit),
        )
        return [Commit(**dict(row)) for row in rows]

    def versions(self, volume_id: str, path: str) -> list[tuple[int, Entry | None]]:
        """Return every commit that changed a path, with its entry then (None: removed), oldest first."""
        rows = self._db.all(
            "SELECT * FROM volume_changes WHERE volume_id=? AND path=? ORDER BY number", (volume_id, path)
        )
        return [(int(row["number"]), None if row["kind"] is None else _entry(row)) for row in rows]


def _range(path: str) -> tuple[str, str, str]:
    """Return the SQL parameters for "at or below a path": the path, and the bounds between which all below it sorts."""
    return (path, *_below(path)) if path else ("", "", "\U0010ffff")


def _below(path: str) -> tuple[str, str]:
    return path + "/", path + "0"  # "0" follows "/" in ASCII: the range holds exactly what is below


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(row["path"], row["kind"], row["mode"], row["size"], row["sha256"], row["target"], row["mtime"])

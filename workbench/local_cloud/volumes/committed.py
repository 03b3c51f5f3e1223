"""The committed state of volumes: a manifest per volume and the change set of every commit, in SQLite.

Commits are per-file last-write-wins. Paths are relative, with `/` between names and none at either end.
"""

import time
from dataclasses import dataclass, replace
from typing import Literal

from workbench.local_cloud.rpc.failures import invalid
from workbench.local_cloud.store.database import Database

_DDL = """
CREATE TABLE IF NOT EXISTS commits (
  volume_id TEXT NOT NULL, number INTEGER NOT NULL, at REAL NOT NULL, author TEXT NOT NULL, PRIMARY KEY (volume_id, number)
);
CREATE TABLE IF NOT EXISTS changes (
  volume_id TEXT NOT NULL, number INTEGER NOT NULL, path TEXT NOT NULL, kind TEXT, mode INTEGER, size INTEGER,
  sha256 TEXT, target TEXT, mtime REAL, PRIMARY KEY (volume_id, number, path)
);
CREATE TABLE IF NOT EXISTS entries (
  volume_id TEXT NOT NULL, path TEXT NOT NULL, kind TEXT NOT NULL, mode INTEGER NOT NULL, size INTEGER NOT NULL,
  sha256 TEXT NOT NULL, target TEXT NOT NULL, mtime REAL NOT NULL, PRIMARY KEY (volume_id, path)
);
"""


@dataclass(frozen=True)
class Entry:
    """One file, directory or symbolic link of a volume. `mtime` is in Unix seconds, `size` in bytes."""

    path: str
    kind: Literal["file", "dir", "symlink"]
    mode: int
    size: int = 0
    sha256: str = ""
    target: str = ""
    mtime: float = 0


@dataclass(frozen=True)
class Removal:
    """A path that a commit takes away."""

    path: str


def clean(path: str) -> str:
    """Normalise a path that a client gave, "" being the root; raises RpcFailure INVALID_ARGUMENT for `..` and NUL."""
    if "\0" in path:
        raise invalid("A volume path must not hold NUL.")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise invalid("A volume path must not hold '..'.")
    return "/".join(parts)


def _below(path: str) -> tuple[str, str]:
    return path + "/", path + "0"  # "0" follows "/" in ASCII: the range holds exactly what is below


class CommittedVolumes:
    """Publishes change sets and reads manifests."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.script(_DDL)

    def publish(self, volume_id: str, changes: list[Entry | Removal], *, author: str) -> int:
        """Apply a change set as one commit and return its number; all of it or nothing."""
        with self._db.transaction():
            row = self._db.one("SELECT COALESCE(MAX(number), 0) AS last FROM commits WHERE volume_id=?", (volume_id,))
            assert row is not None
            number = int(row["last"]) + 1
            self._db.execute("INSERT INTO commits VALUES (?,?,?,?)", (volume_id, number, time.time(), author))
            for change in changes:
                if isinstance(change, Removal):
                    low, high = _below(change.path)
                    self._db.execute(
                        "DELETE FROM entries WHERE volume_id=? AND (path=? OR (path>? AND path<?))",
                        (volume_id, change.path, low, high),
                    )
                    self._log(volume_id, number, change.path, None)
                else:
                    self._parents(volume_id, change.path)
                    self._put(volume_id, change)
                    self._log(volume_id, number, change.path, change)
        return number

    def _parents(self, volume_id: str, path: str) -> None:
        parts = path.split("/")[:-1]
        for end in range(1, len(parts) + 1):
            parent = "/".join(parts[:end])
            found = self.entry(volume_id, parent)
            if found is None or found.kind != "dir":
                self._put(volume_id, Entry(parent, "dir", 0o755, mtime=time.time()))

    def _put(self, volume_id: str, entry: Entry) -> None:
        if entry.kind != "dir":
            low, high = _below(entry.path)
            self._db.execute("DELETE FROM entries WHERE volume_id=? AND path>? AND path<?", (volume_id, low, high))
        self._db.execute(
            "INSERT OR REPLACE INTO entries VALUES (?,?,?,?,?,?,?,?)",
            (volume_id, entry.path, entry.kind, entry.mode, entry.size, entry.sha256, entry.target, entry.mtime),
        )

    def _log(self, volume_id: str, number: int, path: str, entry: Entry | None) -> None:
        values = (entry.kind, entry.mode, entry.size, entry.sha256, entry.target, entry.mtime) if entry else (None,) * 6
        self._db.execute("INSERT OR REPLACE INTO changes VALUES (?,?,?,?,?,?,?,?,?)", (volume_id, number, path, *values))

    def entry(self, volume_id: str, path: str) -> Entry | None:
        """One entry; the root is always a directory."""
        if path == "":
            return Entry("", "dir", 0o755)
        row = self._db.one("SELECT * FROM entries WHERE volume_id=? AND path=?", (volume_id, path))
        return None if row is None else _entry(row)

    def below(self, volume_id: str, path: str, *, recursive: bool = True) -> list[Entry]:
        """Every entry below a directory, in order of paths; without `recursive` its own entries only."""
        if path:
            low, high = _below(path)
            rows = self._db.all(
                "SELECT * FROM entries WHERE volume_id=? AND path>? AND path<? ORDER BY path", (volume_id, low, high)
            )
        else:
            rows = self._db.all("SELECT * FROM entries WHERE volume_id=? ORDER BY path", (volume_id,))
        skip = len(path) + 1 if path else 0
        return [_entry(row) for row in rows if recursive or "/" not in row["path"][skip:]]

    def at(self, volume_id: str, sub_path: str) -> dict[str, Entry]:
        """The entries below a sub-path, by paths relative to it."""
        skip = len(sub_path) + 1 if sub_path else 0
        return {
            entry.path[skip:]: replace(entry, path=entry.path[skip:]) for entry in self.below(volume_id, sub_path)
        }

    def head(self, volume_id: str) -> int:
        """The number of the newest commit, 0 for none."""
        row = self._db.one("SELECT MAX(number) AS last FROM commits WHERE volume_id=?", (volume_id,))
        return int(row["last"] or 0) if row is not None else 0

    def drop(self, volume_id: str) -> None:
        """Forget a volume's entries and commits."""
        with self._db.transaction():
            for table in ("entries", "changes", "commits"):
                self._db.execute(f"DELETE FROM {table} WHERE volume_id=?", (volume_id,))  # noqa: S608  # fixed names


def _entry(row: object) -> Entry:
    values = dict(row)  # type: ignore[call-overload]  # a sqlite3.Row is a mapping
    values.pop("volume_id")
    return Entry(**values)

"""The history of volumes: which commits there are, what differs between two of them, and how to restore a path.

Reads committed state only, always at or below one path, so that a project's history shows that project alone. To
restore is to commit anew: no commit is lost by it.
"""

from dataclasses import dataclass
from typing import Literal

from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.volumes.committed import Commit, CommittedVolumes, Entry, Removal

AUTHOR = "client:restore"
_KINDS = {"dir": "directory", "symlink": "symbolic link"}


@dataclass(frozen=True, slots=True)
class Change:
    """A path that differs between two commits; `before` or `after` is None where the path is missing, never both."""

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def what(self) -> Literal["added", "removed", "modified"]:
        """The kind of the change."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "modified"


class History:
    """Reads and restores the history of one cloud's volumes. Paths must come from `committed.clean`."""

    def __init__(self, committed: CommittedVolumes) -> None:
        self._committed = committed

    def commits(self, volume_id: str, path: str, *, limit: int) -> list[tuple[Commit, list[Entry | Removal]]]:
        """Return the newest `limit` commits that changed something at or below a path, with those changes.

        Newest first.
        """
        found = self._committed.touching(volume_id, path, limit=limit)
        return [(commit, self._committed.changes(volume_id, commit.number, below=path)) for commit in found]

    def diff(self, volume_id: str, path: str, base: int, head: int) -> list[Change]:
        """Return what differs between the commits `base` and `head`, in order of paths; 0 means the empty volume.

        Raises CloudError NOT_FOUND for a commit that does not exist or is no longer kept.
        """
        before, after = self._state(volume_id, path, base), self._state(volume_id, path, head)
        changes = []
        for name in sorted(before.keys() | after.keys()):
            old, new = before.get(name), after.get(name)
            if old is None or new is None or not old.same_as(new):
                changes.append(Change(name, old, new))
        return changes

    def file_at(self, volume_id: str, path: str, number: int) -> Entry:
        """Return a regular file as it was right after a commit.

        Raises CloudError: NOT_FOUND for the commit or the path, INVALID_ARGUMENT when the path was no regular file.
        """
        self._check(volume_id, number)
        found = {entry.path: entry for entry in self._committed.as_of(volume_id, number, below=path)}.get(path)
        if found is None:
            raise not_found(f"There was no '{path}' at commit {number}.")
        if found.kind != "file":
            raise invalid(f"'{path}' was a {_KINDS[found.kind]} at commit {number}, not a regular file.")
        return found

    def restore(self, volume_id: str, path: str, number: int) -> int | None:
        """Commit a path and everything below it as it was right after the commit `number`.

        Returns the new commit, None when nothing differs. Raises CloudError NOT_FOUND for the commit or the path.
        """
        self._check(volume_id, number)
        head = self._committed.head(volume_id)
        with self._committed.transaction():
            wanted = {entry.path: entry for entry in self._committed.as_of(volume_id, number, below=path)}
            if path and not wanted:
                raise not_found(f"There was no '{path}' at commit {number}.")
            present = {entry.path: entry for entry in self._committed.as_of(volume_id, head, below=path)}
            changes: list[Entry | Removal] = [Removal(name) for name in present.keys() - wanted.keys()]
            for name, entry in wanted.items():
                existing = present.get(name)
                if existing is None or not existing.same_as(entry):
                    changes.append(entry)
            return self._committed.publish(volume_id, changes, author=f"{AUTHOR} {number}") if changes else None

    def _state(self, volume_id: str, path: str, number: int) -> dict[str, Entry]:
        if number == 0:
            return {}
        self._check(volume_id, number)
        return {entry.path: entry for entry in self._committed.as_of(volume_id, number, below=path)}

    def _check(self, volume_id: str, number: int) -> None:
        if not self._committed.has(volume_id, number):
            was_pruned = 0 < number <= self._committed.head(volume_id)
            raise not_found(
                f"Commit {number} is no longer kept: older commits were removed by `workbench cloud gc`."
                if was_pruned
                else f"There is no commit {number}."
            )

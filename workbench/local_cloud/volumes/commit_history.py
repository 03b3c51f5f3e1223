"""The time machine of volumes: what was committed, by whom and when, what differs, and how to bring it back.

Reads committed state only, always at or below one path, so that whoever looks at a project sees that project. Bringing
something back is a commit of its own: nothing that was ever committed is lost by it.
"""

from dataclasses import dataclass
from typing import Literal

from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.volumes.committed import Commit, CommittedVolumes, Entry, Removal

AUTHOR = "client:restore"


@dataclass(frozen=True, slots=True)
class Change:
    """A path that differs between two states; at least one of them has it."""

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def what(self) -> Literal["added", "removed", "modified"]:
        """The word for it."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "modified"


class History:
    """Answers about one cloud's volumes; paths were cleaned by the caller. Raises CloudError."""

    def __init__(self, committed: CommittedVolumes) -> None:
        self._committed = committed

    def commits(self, volume_id: str, path: str, *, limit: int) -> list[tuple[Commit, list[Entry | Removal]]]:
        """The newest commits that touched a path, each with what it changed there, newest first."""
        found = self._committed.touching(volume_id, path, limit=limit)
        return [(commit, self._committed.changes(volume_id, commit.number, below=path)) for commit in found]

    def diff(self, volume_id: str, path: str, base: int, head: int) -> list[Change]:
        """What differs between two commits, 0 being the empty volume, in order of paths."""
        before, after = self._state(volume_id, path, base), self._state(volume_id, path, head)
        changes = []
        for name in sorted(before.keys() | after.keys()):
            one, other = before.get(name), after.get(name)
            if one is None or other is None or not one.same_as(other):
                changes.append(Change(name, one, other))
        return changes

    def file_at(self, volume_id: str, path: str, number: int) -> Entry:
        """A regular file as it was right after a commit; NOT_FOUND, INVALID_ARGUMENT for what is no file."""
        self._check(volume_id, number)
        found = {entry.path: entry for entry in self._committed.as_of(volume_id, number, below=path)}.get(path)
        if found is None:
            raise not_found(f"There was no '{path}' at commit {number}.")
        if found.kind != "file":
            raise invalid(f"'{path}' was no regular file at commit {number}.")
        return found

    def restore(self, volume_id: str, path: str, number: int) -> int | None:
        """Bring a path back to how it was right after a commit; returns the new commit, None when nothing differs."""
        self._check(volume_id, number)
        head = self._committed.head(volume_id)
        with self._committed.transaction():
            wanted = {entry.path: entry for entry in self._committed.as_of(volume_id, number, below=path)}
            if path and not wanted:
                raise not_found(f"There was no '{path}' at commit {number}.")
            present = {entry.path: entry for entry in self._committed.as_of(volume_id, head, below=path)}
            changes: list[Entry | Removal] = [Removal(name) for name in present.keys() - wanted.keys()]
            for name, entry in wanted.items():
                there = present.get(name)
                if there is None or not there.same_as(entry):
                    changes.append(entry)
            return self._committed.publish(volume_id, changes, author=f"{AUTHOR} {number}") if changes else None

    def _state(self, volume_id: str, path: str, number: int) -> dict[str, Entry]:
        if number == 0:
            return {}
        self._check(volume_id, number)
        return {entry.path: entry for entry in self._committed.as_of(volume_id, number, below=path)}

    def _check(self, volume_id: str, number: int) -> None:
        if not self._committed.has(volume_id, number):
            gone = 0 < number <= self._committed.head(volume_id)
            raise not_found(f"Commit {number} is no longer kept." if gone else f"There is no commit {number}.")

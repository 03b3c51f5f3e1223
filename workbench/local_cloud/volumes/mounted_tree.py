"""What a mount's directory must be able to do, however it is made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workbench.local_cloud.volumes.scan import Keep, Scan


@dataclass(frozen=True)
class SeenAt:
    """Where a container's processes see a mount: the id of its bubblewrap, and the path inside."""

    pid: int
    path: str
    read_only: bool = False


@dataclass(frozen=True)
class BelowWritten:
    """What an overlay shows below `written`, the directory of what was written: entries, and bytes of their files."""

    written: Path
    entries: int
    size: int


class MountedTree(Protocol):
    """One mount's directory `path`. For one thread at a time; everything blocks."""

    path: Path

    @property
    def layers(self) -> BelowWritten | None:
        """What the directory shows of committed layers; None when it is no overlay."""

    def scan(self, keep: Keep | None) -> Scan:
        """Compare the directory with what was last committed or shown; `keep` and errors are as for `scan.scan`."""

    def committed(self, found: Scan, number: int | None) -> None:
        """Record that what a scan has found is committed now, by the commit `number` if anything had changed."""

    def show_newest(self, seen_at: SeenAt | None) -> int:
        """Make the newest committed state visible, but for local changes; returns its commit.

        Raises CloudError RESOURCE_EXHAUSTED when the disk has no room, FAILED_PRECONDITION when files of the mount are
        open where it is seen, and OSError.
        """

    def give_up(self) -> None:
        """Keep what the next mount of the same place can use; `remove` must follow. Nobody may use it any more."""

    def remove(self) -> None:
        """Remove the directory. Idempotent."""

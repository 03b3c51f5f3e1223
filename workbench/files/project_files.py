"""A project's committed files, read through the SDK's volume API: without a mount, and never following a link.

Files that a sandbox has written but not committed are not among them. On the local cloud the files also have a history:
who committed what and when, what differs between commits, and a way to restore them.
"""

import html
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import modal
from modal.exception import NotFoundError
from modal.types import FileEntryType

from modal_app.contract.caps import MAX_LIST_ENTRIES
from modal_app.contract.paths import check_path
from workbench.files.history import (
    BlamedLine,
    CommitInfo,
    FileChange,
    HistoryClient,
    HistoryUnavailableError,
    UncommittedMount,
)
from workbench.files.preview import Preview, bytes_wanted, preview
from workbench.views import view_of

if TYPE_CHECKING:
    from workbench.widgets.volume_browser import VolumeBrowser

MAX_UPLOAD_BYTES = (
    8 * 1024 * 1024
)  # what fits into one message of JupyterLab's; larger files belong to `modal volume put`
_MAX_ROWS = 1000
CUT = f"… and more: at most {MAX_LIST_ENTRIES} entries are read, `modal volume ls` lists a directory"
_KINDS: dict[FileEntryType, "Kind"] = {
    FileEntryType.FILE: "file",
    FileEntryType.DIRECTORY: "directory",
    FileEntryType.SYMLINK: "link",
}
Kind = Literal["file", "directory", "link", "other"]


@dataclass(frozen=True)
class VolumeEntry:
    """A file or directory; `path` is relative to the project, `size` in bytes, `mtime` Unix time in seconds."""

    path: str
    kind: Kind
    size: int
    mtime: int


class ProjectVolume:
    """The files of one project in the project volume."""

    def __init__(
        self, volume: modal.Volume, user_id: str, project_id: str, *, history: HistoryClient | None = None
    ) -> None:
        """`history` is the volume's history on the local cloud; None on Modal, which keeps none."""
        self._history = history
        self.user_id = user_id
        self.project_id = project_id
        self._volume = volume
        self._root = f"/projects/{user_id}/{project_id}"

    def entries(self) -> list[VolumeEntry]:
        """All committed files and directories, sorted by path; empty for a project without any.

        At most MAX_LIST_ENTRIES of them: `listing` tells whether there are more.
        """
        return self.listing()[0]

    def listing(self) -> tuple[list[VolumeEntry], bool]:
        """The committed files and directories as `entries` has them, and whether there are more than these."""
        found: list[VolumeEntry] = []
        for entry in self._listed(self._root, recursive=True):
            if len(found) == MAX_LIST_ENTRIES:
                return sorted(found, key=lambda entry: entry.path), True
            found.append(entry)
        return sorted(found, key=lambda entry: entry.path), False

    def entry(self, path: str) -> VolumeEntry | None:
        """What is committed at a path; None when there is nothing. Raises ValueError as `read` does."""
        check_path(path)
        parent = str(PurePosixPath(self._root, path).parent)
        return next((entry for entry in self._listed(parent, recursive=False) if entry.path == path), None)

    def _listed(self, directory: str, *, recursive: bool) -> Iterator[VolumeEntry]:
        try:
            for entry in self._volume.iterdir(directory, recursive=recursive):
                path = str(PurePosixPath("/", entry.path).relative_to(self._root))
                yield VolumeEntry(path, _KINDS.get(entry.type, "other"), entry.size, entry.mtime)
        except (NotFoundError, FileNotFoundError, NotADirectoryError):
            return

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        """A file's bytes, at most `limit` of them.

        Raises ValueError for a path that cannot be in a project, FileNotFoundError, and IsADirectoryError when it is
        no file.
        """
        self._file(path)
        data = bytearray()
        for chunk in self._volume.read_file(f"{self._root}/{path}"):
            data += chunk
            if limit is not None and len(data) >= limit:
                return bytes(data[:limit])
        return bytes(data)

    def _file(self, path: str) -> VolumeEntry:
        entry = self.entry(path)
        if entry is None:
            raise FileNotFoundError(f"{path} is not among the project's committed files")
        if entry.kind != "file":
            raise IsADirectoryError(f"{path} is a {entry.kind}")
        return entry

    def preview(self, path: str, commit: int = 0) -> Preview:
        """A preview of a file, as it is now or was right after a commit. Raises as `read` and `read_at` do."""
        if commit:
            data = self.read_at(path, commit)
            return preview(path, data[: bytes_wanted(len(data))], len(data))
        size = self._file(path).size
        return preview(path, self.read(path, limit=bytes_wanted(size)), size)

    def write(self, path: str, data: bytes) -> None:
        """Write a file, in place of one that is there, as a commit of its own.

        Raises ValueError for a path that cannot be in a project, or for more than MAX_UPLOAD_BYTES.
        """
        check_path(path)
        if len(data) > MAX_UPLOAD_BYTES:
            raise ValueError(f"more than {MAX_UPLOAD_BYTES} bytes: use `modal volume put`")
        with self._volume.batch_upload(force=True) as batch:
            batch.put_file(io.BytesIO(data), f"{self._root}/{path}")

    def read_text(self, path: str) -> str:
        """A file as text, with U+FFFD for what is not UTF-8."""
        return self.read(path).decode(errors="replace")

    def tree(self, *, git: bool = False) -> str:
        """The files as an indented tree; with `git`, including the directory `.git`."""
        entries, more = self.listing()
        shown = [entry for entry in entries if git or entry.path.split("/")[0] != ".git"]
        return "\n".join([*tree_lines(shown), *([CUT] if more else [])]) or "(nothing committed)"

    def history(self, path: str = "", *, limit: int = 100) -> list[CommitInfo]:
        """The newest commits that changed a path, or anything in the project without a path; newest first.

        This method and those below raise HistoryUnavailableError on a target that keeps no history, and HistoryError.
        """
        return self._machine.commits(self._below(path), limit=limit)

    def diff(self, base: int = 0, head: int = 0, *, path: str = "") -> list[FileChange]:
        """The files that differ between two commits; `base` 0 is the empty project, `head` 0 the newest state."""
        return self._machine.diff(self._below(path), base=base, head=head)

    def read_at(self, path: str, commit: int) -> bytes:
        """A file's bytes as they were right after a commit; raises HistoryError when it was not there."""
        return self._machine.content(self._below(path), commit=commit)

    def diff_text(self, path: str, base: int, head: int | str = 0) -> str:
        """The unified diff of a file between two commits, 0 being the newest.

        A `head` that is a text is the `holder` of a live mount, as `uncommitted` tells it: its working copy.
        """
        return self._machine.text_diff(self._below(path), base=base, head=head, name=path)

    def blame(self, path: str) -> list[BlamedLine]:
        """Each line of a file as it is now, with the commit that added it."""
        return self._machine.blame(self._below(path))

    def restore(self, commit: int, path: str = "") -> int | None:
        """Restore a path, or the whole project without a path, to its state right after a commit.

        This makes a new commit, whose number is returned; None when nothing differs. The state before stays in the
        history.
        """
        return self._machine.restore(self._below(path), commit=commit)

    def uncommitted(self) -> list[UncommittedMount]:
        """The changes in live mounts of this project that are not committed, and so not visible to others yet."""
        return self._machine.uncommitted(self._below(""))

    @property
    def _machine(self) -> HistoryClient:
        if self._history is None:
            raise HistoryUnavailableError(
                "Modal keeps no history of volumes: diff, blame and restore are there on the target local; "
                "put the project under git (action `git`) to have them everywhere"
            )
        return self._history

    def _below(self, path: str) -> str:
        if path:
            check_path(path)
        return f"{self._root}/{path}".strip("/")

    def browse(self) -> "VolumeBrowser":
        """A widget for JupyterLab that browses the files."""
        browser: VolumeBrowser = view_of("project files", self)
        return browser

    def __repr__(self) -> str:
        return f"ProjectVolume({self._root})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        entries, more = self.listing()
        shown = [entry for entry in entries if entry.path.split("/")[0] != ".git"]
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(entry.path)}</td><td>{entry.kind}</td><td>{entry.size}</td>"
            f"<td>{datetime.fromtimestamp(entry.mtime, UTC):%Y-%m-%d %H:%M:%S}</td></tr>"
            for entry in shown[:_MAX_ROWS]
        )
        table = f"<table><tr><th>path</th><th>kind</th><th>bytes</th><th>modified (UTC)</th></tr>{rows}</table>"
        note = f"<p>{CUT}</p>" if more or len(shown) > _MAX_ROWS else ""
        return {"text/plain": self.tree(), "text/html": table + note}


def tree_lines(entries: Iterable[VolumeEntry]) -> list[str]:
    """Entries as lines of an indented tree, with names as they are: not safe to print to a terminal."""
    lines = []
    for entry in entries:
        depth = entry.path.count("/")
        name = entry.path.rsplit("/", 1)[-1]
        detail = (
            "/" if entry.kind == "directory" else f"  {entry.size} B" if entry.kind == "file" else f"  ({entry.kind})"
        )
        lines.append("  " * depth + name + detail)
    return lines

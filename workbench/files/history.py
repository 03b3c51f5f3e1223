"""The history of a volume as the local cloud keeps it: commits, differences, blame, restoring. Blocking calls.

Modal has no such thing; whoever holds no HistoryClient has no history.
"""

import difflib
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from workbench.cloud_control.cloud_http import CloudHttp, CloudRefusedError
from workbench.errors import WorkbenchError

MAX_BLAMED_BYTES = 1024 * 1024  # a text that somebody reads
MAX_BLAMED_VERSIONS = 200  # comparing texts is slow
_NO_NEWLINE = "\\ No newline at end of file"  # as in every other unified diff


class HistoryUnavailableError(WorkbenchError):
    """There is no history where this volume is; the message says what there is instead."""


class HistoryError(WorkbenchError):
    """The history has no such thing; the message says what."""


class HistoryAbsentError(HistoryError):
    """There was no such path, or no such commit; the message says which."""


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ChangedPath(_Fact):
    """One path that a commit changed; `size` in bytes."""

    path: str
    removed: bool
    size: int = 0


class CommitInfo(_Fact):
    """One commit: `at` is Unix time, `author` says who: a sandbox with its tags, a container, or a client."""

    number: int
    at: float
    author: str
    changes: tuple[ChangedPath, ...] = ()


class EntryInfo(_Fact):
    """A path in one state."""

    kind: str
    size: int
    sha256: str = ""
    mode: int


class FileChange(_Fact):
    """A path that differs between two states; `what` is added, removed or modified."""

    path: str
    what: str
    before: EntryInfo | None
    after: EntryInfo | None


class BlamedLine(_Fact):
    """A line and the commit that brought it."""

    text: str
    commit: int
    at: float
    author: str


class UncommittedMount(_Fact):
    """What a live mount holds that is not committed; `holder` is the sandbox or container."""

    holder: str
    mount_path: str
    files: int
    size: int
    paths: tuple[str, ...]


class _Version(CommitInfo):
    entry: EntryInfo | None


_COMMITS: TypeAdapter[list[CommitInfo]] = TypeAdapter(list[CommitInfo])
_CHANGES: TypeAdapter[list[FileChange]] = TypeAdapter(list[FileChange])
_VERSIONS: TypeAdapter[list[_Version]] = TypeAdapter(list[_Version])
_MOUNTS: TypeAdapter[list[UncommittedMount]] = TypeAdapter(list[UncommittedMount])


class HistoryClient:
    """Asks a local cloud about one volume. Paths go in relative to the volume and come out relative to `root`."""

    def __init__(self, url: str, env: Mapping[str, str], volume: str, *, root: str = "") -> None:
        self._http = CloudHttp(url, env)
        self._volume = volume
        self._root = root

    def commits(self, path: str, *, limit: int) -> list[CommitInfo]:
        """The newest commits that touched a path, newest first."""
        found = _COMMITS.validate_json(self._get("commits", path=path, limit=limit))
        return [
            one.model_copy(update={"changes": tuple(self._shortened(change) for change in one.changes)})
            for one in found
        ]

    def diff(self, path: str, *, base: int, head: int) -> list[FileChange]:
        """What differs between two commits."""
        found = _CHANGES.validate_json(self._get("diff", path=path, base=base, head=head))
        return [one.model_copy(update={"path": self._short(one.path)}) for one in found]

    def content(self, path: str, *, commit: int) -> bytes:
        """A file's bytes right after a commit, 0 being the newest."""
        return self._get("content", path=path, commit=commit)

    def working(self, path: str, *, holder: str) -> bytes:
        """A file as a live mount has it, committed or not."""
        return self._get("working", path=path, holder=holder)

    def text_diff(self, path: str, *, base: int, head: int | str, name: str) -> str:
        """The unified diff of a file, which may be absent from one of two commits.

        A `head` that is a text names the holder of a live mount, which must have the file.
        """
        before = self._lines_if_there(path, base)
        if isinstance(head, int):
            after = self._lines_if_there(path, head)
        else:
            after = self._bounded(path, self.working(path, holder=head))
        if before is None and after is None:
            raise HistoryAbsentError(f"there is no file {name} on either side")
        before, after = before or [], after or []
        lines = difflib.unified_diff(before, after, f"{name} at {base or 'now'}", f"{name} at {head or 'now'}")
        return "".join(line if line.endswith("\n") else f"{line}\n{_NO_NEWLINE}\n" for line in lines)

    def blame(self, path: str) -> list[BlamedLine]:
        """Each line of a file as it is now, with the commit that brought it; HistoryError for what is no file."""
        versions = _VERSIONS.validate_json(self._get("versions", path=path))
        if not versions or versions[-1].entry is None or versions[-1].entry.kind != "file":
            raise HistoryError(f"there is no file {self._short(path)}")
        if versions[-1].entry.size > MAX_BLAMED_BYTES:
            raise HistoryError(f"{self._short(path)} is larger than {MAX_BLAMED_BYTES} bytes")
        blamed: list[BlamedLine] = []
        for version in versions[-MAX_BLAMED_VERSIONS:]:
            there = version.entry is not None and version.entry.kind == "file"
            readable = version.entry is not None and version.entry.size <= MAX_BLAMED_BYTES
            lines = self._lines(path, version.number) if there and readable else []
            blamed = _carried_over(blamed, lines, version)
        return blamed

    def restore(self, path: str, *, commit: int) -> int | None:
        """Bring a path back; returns the new commit's number."""
        number: int | None = json.loads(self._ask("POST", "restore", path=path, commit=commit))["commit"]
        return number

    def uncommitted(self, path: str) -> list[UncommittedMount]:
        """What live mounts hold that is not committed."""
        return _MOUNTS.validate_json(self._get("uncommitted", path=path))

    def _lines_if_there(self, path: str, commit: int) -> list[str] | None:
        try:
            return self._bounded(path, self.content(path, commit=commit))
        except HistoryAbsentError:
            return None

    def _bounded(self, path: str, data: bytes) -> list[str]:
        if len(data) > MAX_BLAMED_BYTES:
            raise HistoryError(f"{self._short(path)} is larger than {MAX_BLAMED_BYTES} bytes")
        return _lines(data)

    def _lines(self, path: str, commit: int) -> list[str]:
        return _lines(self.content(path, commit=commit))

    def _get(self, what: str, **question: Any) -> bytes:
        return self._ask("GET", what, **question)

    def _ask(self, method: str, what: str, **question: Any) -> bytes:
        try:
            return self._http.ask(method, f"/history/{self._volume}/{what}", params=question)
        except CloudRefusedError as error:
            raise (HistoryAbsentError if error.status == HTTPStatus.NOT_FOUND else HistoryError)(str(error)) from error

    def _short(self, path: str) -> str:
        return path.removeprefix(self._root).strip("/")

    def _shortened(self, change: ChangedPath) -> ChangedPath:
        return change.model_copy(update={"path": self._short(change.path)})


def _lines(data: bytes) -> list[str]:
    return data.decode(errors="replace").splitlines(keepends=True)


def _carried_over(blamed: list[BlamedLine], lines: list[str], version: CommitInfo) -> list[BlamedLine]:
    """The lines of a version: those of the version before keep their commit, the rest are this one's."""
    before = [line.text for line in blamed]
    texts = [line.rstrip("\n") for line in lines]
    result = [BlamedLine(text=text, commit=version.number, at=version.at, author=version.author) for text in texts]
    for old, new, size in difflib.SequenceMatcher(None, before, texts, autojunk=False).get_matching_blocks():
        result[new : new + size] = blamed[old : old + size]
    return result

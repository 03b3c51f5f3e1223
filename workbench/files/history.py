"""The history of a volume, which the local cloud keeps: commits, differences, blame, restore. Blocking calls.

Modal keeps no history, so on Modal there is no HistoryClient.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

from workbench.cloud_control.cloud_http import CloudHttp, CloudRefusedError
from workbench.errors import WorkbenchError

T = TypeVar("T")

MAX_BLAMED_BYTES = 1024 * 1024  # more than anybody reads line by line
MAX_BLAMED_VERSIONS = 200  # comparing versions of a text is slow
_NO_NEWLINE = "\\ No newline at end of file"  # as in every other unified diff


class HistoryUnavailableError(WorkbenchError):
    """The target keeps no history of volumes; the message says what can be used instead."""


class HistoryError(WorkbenchError):
    """The history cannot answer; the message says why."""


class HistoryAbsentError(HistoryError):
    """There is no such path or no such commit in the history; the message says which."""


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ChangedPath(_Fact):
    """One path that a commit changed; `size` in bytes."""

    path: str
    removed: bool
    size: int = 0


class CommitInfo(_Fact):
    """One commit. `at` is Unix time; `author` names the sandbox with its tags, the container, or the client."""

    number: int
    at: float
    author: str
    changes: tuple[ChangedPath, ...] = ()


class EntryInfo(_Fact):
    """What is at a path in one state of the volume."""

    kind: str
    size: int
    sha256: str = ""
    mode: int


class FileChange(_Fact):
    """A path that differs between two states; `what` is "added", "removed" or "modified"."""

    path: str
    what: str
    before: EntryInfo | None
    after: EntryInfo | None


class BlamedLine(_Fact):
    """One line of a file, and the commit that has added it."""

    text: str
    commit: int
    at: float
    author: str


class UncommittedMount(_Fact):
    """The changes in a live mount that are not committed yet; `holder` names the sandbox or container that has it."""

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
    """The history of one volume, asked of a local cloud.

    Paths are given relative to the volume and returned relative to `root`. Every call raises HistoryError.
    """

    def __init__(self, url: str, env: Mapping[str, str], volume: str, *, root: str = "") -> None:
        self._http = CloudHttp(url, env)
        self._volume = volume
        self._root = root

    def commits(self, path: str, *, limit: int) -> list[CommitInfo]:
        """The newest commits that have changed a path or anything below it, at most `limit`, newest first."""
        found = self._get("commits", _COMMITS.validate_json, path=path, limit=limit)
        return [
            one.model_copy(update={"changes": tuple(self._shortened(change) for change in one.changes)})
            for one in found
        ]

    def diff(self, path: str, *, base: int, head: int) -> list[FileChange]:
        """The paths that differ between two commits."""
        found = self._get("diff", _CHANGES.validate_json, path=path, base=base, head=head)
        return [one.model_copy(update={"path": self._short(one.path)}) for one in found]

    def content(self, path: str, *, commit: int) -> bytes:
        """A file's bytes right after a commit, 0 being the newest."""
        return self._get("content", bytes, path=path, commit=commit)

    def working(self, path: str, *, holder: str) -> bytes:
        """A file's bytes as they are in the live mount of `holder`, committed or not."""
        return self._get("working", bytes, path=path, holder=holder)

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
        """Each line of a file as it is now, with the commit that added it; raises HistoryError when it is no file."""
        versions = self._get("versions", _VERSIONS.validate_json, path=path)
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
        """Restore a path to its state at a commit; returns the new commit's number, None when nothing differs."""
        return self._ask("POST", "restore", _restored, path=path, commit=commit)

    def uncommitted(self, path: str) -> list[UncommittedMount]:
        """The changes in live mounts that are not committed yet."""
        return self._get("uncommitted", _MOUNTS.validate_json, path=path)

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

    def _get(self, what: str, read: Callable[[bytes], T], **question: Any) -> T:
        return self._ask("GET", what, read, **question)

    def _ask(self, method: str, what: str, read: Callable[[bytes], T], **question: Any) -> T:
        try:
            return self._http.ask(method, f"/history/{self._volume}/{what}", read, params=question)
        except CloudRefusedError as error:
            raise (HistoryAbsentError if error.status == HTTPStatus.NOT_FOUND else HistoryError)(str(error)) from error

    def _short(self, path: str) -> str:
        return path.removeprefix(self._root).strip("/")

    def _shortened(self, change: ChangedPath) -> ChangedPath:
        return change.model_copy(update={"path": self._short(change.path)})


def run_of(author: str) -> str:
    """The id of the run whose sandbox made a commit, from the commit's author; "" when it was no run's."""
    tags = (word.partition("=") for word in author.split())
    return next((value for name, _, value in tags if name == "run_id"), "")


def _restored(told: bytes) -> int | None:
    number = json.loads(told)["commit"]
    return None if number is None else int(number)


def _lines(data: bytes) -> list[str]:
    return data.decode(errors="replace").splitlines(keepends=True)


def _carried_over(blamed: list[BlamedLine], lines: list[str], version: CommitInfo) -> list[BlamedLine]:
    """The lines of a version, each with its commit: lines of the version before keep theirs, new ones get this one."""
    before = [line.text for line in blamed]
    texts = [line.rstrip("\n") for line in lines]
    result = [BlamedLine(text=text, commit=version.number, at=version.at, author=version.author) for text in texts]
    for old, new, size in difflib.SequenceMatcher(None, before, texts, autojunk=False).get_matching_blocks():
        result[new : new + size] = blamed[old : old + size]
    return result

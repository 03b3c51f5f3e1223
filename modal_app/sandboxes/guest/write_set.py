"""Runs inside the sandbox as `python3 -I -c`: changes files of the workspace, all or nothing, following no link.

Reads one JSON object from stdin. Prints one on stdout and exits with 0; or prints `{"code", "message"}`, has changed
nothing, and exits with 3 when the change is not possible, or 4 when the workspace failed. With `hold`, what is needed
to undo the change is kept in the workspace, under the name that is printed as `held`. Called again with the arguments
`undo NAME`, it takes the change back together with what git has made of it since; with `settle NAME` it makes the
change final. With `recover` it takes back every change that was not made final, because what made it was killed.

A change is final as soon as its journal is removed. Each step is in the journal before it is done. Standard library
only, and nothing is imported from the workspace.
"""

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

JOURNAL = "undo.jsonl"
TRASH = re.compile(r"\.workbench-[0-9a-f]{12}")
KEPT = re.compile(r"[0-9]{1,9}")
MADE = "/"  # in place of a kept name: a directory that was made, which goes when it is empty
CLEANING_S = 10  # for what is left of final changes: it does not keep a sandbox from its work
GIT_CHANGES = (".git/index", ".git/COMMIT_EDITMSG")
BRANCH = re.compile(r"ref: (refs/heads/[^\x00-\x20\x7f]+)\n")
REMOVE = 'chmod -R u+rwx -- "$1"; exec rm -rf -- "$1"'
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RefusedError(Exception):
    """The change is not possible; nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Workspace:
    """A directory tree that is walked by descriptor, one component at a time, so that no link is followed.

    `undo` lists what was done as (path, kept): `kept` is the name under which the old content is put away, "" when
    nothing was at the path before, or MADE for a directory that was made on the way. `held` names the directory of an
    earlier change, whose journal is then read.
    """

    def __init__(self, root: str, held: str = "") -> None:
        self.root = os.open(root, DIRECTORY)
        self.trash = held or f".workbench-{os.urandom(6).hex()}"
        self.undo: list[tuple[str, str]] = []
        self.undone: set[int] = set()
        self.names = 0
        if not held:
            os.mkdir(self.trash, 0o700, dir_fd=self.root)
        self.trash_fd = os.open(self.trash, DIRECTORY, dir_fd=self.root)
        how = os.O_RDWR if held else os.O_RDWR | os.O_CREAT | os.O_EXCL
        how |= os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self.journal = os.open(JOURNAL, how, 0o600, dir_fd=self.trash_fd)
        if held:
            self.read_journal()

    def read_journal(self) -> None:
        """Take over what was done, and what of it was undone, before this program was started."""
        with os.fdopen(os.dup(self.journal)) as file:
            lines = [line_of(line) for line in file]
        self.undo = [line for line in lines if isinstance(line, tuple)]
        self.undone = {line for line in lines if isinstance(line, int)}
        self.names = max(len(self.undo), *(int(name) for name in os.listdir(self.trash_fd) if KEPT.fullmatch(name)), 0)
        os.write(self.journal, b"\n")  # the last line may be torn

    def note(self, path: str, kept: str) -> None:
        """Write into the journal what is done next."""
        self.undo.append((path, kept))
        os.write(self.journal, json.dumps([path, kept]).encode() + b"\n")

    def keep(self, name: str, data: bytes, mode: int = 0o600) -> None:
        """Write a new file into the directory of what was put away."""
        with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=self.trash_fd), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)

    def remember_git(self) -> None:
        """Keep the files of git that a commit changes, the index and the last message; or that there is no repository.

        Objects that a commit adds are left: without a reference to them, git collects them itself.
        """
        self.keep(".gitignore", b"*")
        if self.kind(self.root, ".git") == "nothing":
            self.note(".git", "")
        elif self.kind(self.root, ".git") == "directory":
            for path in (*GIT_CHANGES, *self.branch()):
                with suppress(RefusedError):  # a component of it is a link, which no commit of ours follows
                    self.remember(self.missing(path))

    def missing(self, path: str) -> str:
        """The first directory on the way to a path that does not exist, which git would make; else the path."""
        parts = path.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            with self.parent(above) as (parent, name):
                if self.kind(parent, name) == "nothing":
                    return above
        return path

    def branch(self) -> "tuple[str, ...]":
        """The file that a commit moves: that of the branch, also one that git will make, or HEAD without a branch."""
        with self.parent(".git/HEAD") as (parent, name):
            if self.kind(parent, name) != "file":
                return ()
            with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent), "rb") as file:
                text = file.read(1024).decode(errors="replace")
        head = BRANCH.fullmatch(text)
        if head and is_plain(head[1]):
            return (f".git/{head[1]}",)
        return () if text.startswith("ref:") else (".git/HEAD",)

    def remember(self, path: str) -> None:
        """Keep a copy of a file for `undo`, or the fact that it does not exist."""
        with self.parent(path) as (parent, name):
            kind = self.kind(parent, name)
            if kind not in ("file", "nothing"):
                return
            kept = self.kept_name() if kind == "file" else ""
            if kept:
                with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent), "rb") as file:
                    mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                    self.keep(kept, file.read(), mode)
            self.note(path, kept)  # the copy is whole now

    @contextmanager
    def parent(self, path: str, *, create: bool = False) -> "Iterator[tuple[int, str]]":
        """The open parent directory and the last name of a path; with `create`, missing directories are made.

        Raises RefusedError.
        """
        current = os.dup(self.root)
        *directories, name = path.split("/")
        try:
            for depth, part in enumerate(directories):
                following = self.step(path, current, part, "/".join(directories[: depth + 1]) if create else "")
                os.close(current)
                current = following
            yield current, name
        finally:
            os.close(current)

    def step(self, path: str, current: int, part: str, make: str) -> int:
        """Open the directory `part` on the way to `path`; `make` is its path when it may be made, else ""."""
        try:
            return os.open(part, DIRECTORY, dir_fd=current)
        except FileNotFoundError:
            if not make:
                raise RefusedError("not_found", f"there is no {path}") from None
        except OSError:
            raise RefusedError("invalid_request", f"a component of {path} is not a directory, or a link") from None
        self.note(make, MADE)
        os.mkdir(part, 0o755, dir_fd=current)
        return os.open(part, DIRECTORY, dir_fd=current)

    def kind(self, parent: int, name: str) -> str:
        """What is at a name: "file", "directory", "link", "other" or "nothing"."""
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return "nothing"
        for kind, test in (("file", stat.S_ISREG), ("directory", stat.S_ISDIR), ("link", stat.S_ISLNK)):
            if test(mode):
                return kind
        return "other"

    def write(self, path: str, data: bytes) -> None:
        """Write a file, in place of the one that is there, whose mode it keeps; raises RefusedError, OSError."""
        with self.parent(path, create=True) as (parent, name):
            kind = self.kind(parent, name)
            if kind not in ("file", "nothing"):
                raise RefusedError("invalid_request", f"{path} is a {kind}")
            mode = 0o644
            if kind == "file":
                mode = stat.S_IMODE(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
                self.put_away(path, parent, name)
            self.note(path, "")
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=parent)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)

    def delete(self, path: str) -> None:
        """Delete a file, a link (not what it points to), or a directory; raises RefusedError, OSError."""
        with self.parent(path) as (parent, name):
            self.require(path, parent, name)
            self.put_away(path, parent, name)

    def move(self, path: str, to: str) -> None:
        """Move what is at `path` to `to`, where nothing may be; raises RefusedError, OSError."""
        with self.parent(path) as (parent, name):
            self.require(path, parent, name)
            with self.parent(to, create=True) as (target, new_name):
                if self.kind(target, new_name) != "nothing":
                    raise RefusedError("invalid_request", f"{to} is there already")
                os.rename(name, new_name, src_dir_fd=parent, dst_dir_fd=target)

    def require(self, path: str, parent: int, name: str) -> None:
        """Raise RefusedError when there is nothing at a path."""
        if self.kind(parent, name) == "nothing":
            raise RefusedError("not_found", f"there is no {path}")

    def put_away(self, path: str, parent: int, name: str) -> None:
        """Move what is at a path out of the way, so that `roll_back` can bring it back."""
        kept = self.kept_name()
        self.note(path, kept)
        os.rename(name, kept, src_dir_fd=parent, dst_dir_fd=self.trash_fd)

    def kept_name(self) -> str:
        """A new name in the directory of what was put away."""
        self.names += 1
        return str(self.names)

    def roll_back(self) -> None:
        """Undo everything, the last change first, but what was undone before.

        What was made is removed, with whatever it holds by now, and what was put away comes back. A directory that was
        made on the way stays if it holds anything: it is not the change's. Every step is tried; then the first OSError
        is raised.
        """
        errors = []
        for number in reversed(range(len(self.undo))):
            if number in self.undone:
                continue
            path, kept = self.undo[number]
            try:
                with self.parent(path) as (parent, name):
                    if kept == MADE:
                        with suppress(OSError):
                            os.rmdir(name, dir_fd=parent)
                    elif kept:
                        os.rename(kept, name, src_dir_fd=self.trash_fd, dst_dir_fd=parent)
                    else:
                        os.rename(name, self.kept_name(), src_dir_fd=parent, dst_dir_fd=self.trash_fd)
            except (FileNotFoundError, RefusedError):
                pass  # neither the path nor the directory around it exists any more
            except OSError as error:
                errors.append(error)
                continue
            self.undone.add(number)
            with suppress(OSError):
                os.write(self.journal, b"%d\n" % number)
        if errors:
            raise errors[0]

    def settle(self) -> None:
        """Make the change final, and remove what was put away; raises OSError while it is not final.

        What cannot be removed is left: `recover` tries again.
        """
        with suppress(FileNotFoundError):
            os.unlink(JOURNAL, dir_fd=self.trash_fd)
        remove(self.root, self.trash)


def remove(root: int, name: str) -> None:
    """Remove a directory of what was put away, as far as possible; directories in it may be read-only, or lie deep."""
    try:
        shutil.rmtree(name, dir_fd=root)
    except (OSError, RecursionError):
        remove_by_programs(root, name)


def remove_by_programs(root: int, name: str, within_s: "float | None" = None) -> None:
    """Remove a directory whatever is in it, as far as possible within that time."""
    quiet = subprocess.DEVNULL
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["sh", "-c", REMOVE, "sh", name],
            check=False,
            cwd=f"/proc/{os.getpid()}/fd/{root}",
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            timeout=within_s,
        )


def line_of(line: str) -> "tuple[str, str] | int | None":
    """What a line of a journal says: a step, the number of one that was undone, or nothing, if it is neither."""
    try:
        value = json.loads(line)
        if isinstance(value, int):
            return value
        path, kept = value
        return (path, kept) if is_plain(path) and (kept in ("", MADE) or KEPT.fullmatch(kept)) else None
    except (ValueError, TypeError, AttributeError):
        return None


def is_plain(path: str) -> bool:
    """Whether a path leads from one directory down to the next only."""
    return all(part not in ("", ".", "..") for part in path.split("/"))


def change(workspace: Workspace, request: "dict[str, object]") -> "dict[str, object]":
    """Carry out a request and return the answer to it."""
    op = request["op"]
    if op == "write":
        if request["hold"]:
            workspace.remember_git()
        written = []
        for file in request["files"]:  # type: ignore[attr-defined]  # the sender's own JSON
            data = base64.b64decode(file["data"])
            workspace.write(file["path"], data)
            written.append({"path": file["path"], "size": len(data)})
        return {"written": written} | ({"held": workspace.trash} if request["hold"] else {})
    if op == "delete":
        workspace.delete(str(request["path"]))
        return {"deleted": request["path"]}
    workspace.move(str(request["path"]), str(request["to"]))
    return {"moved": request["path"], "to": request["to"]}


def changed(root: str, request: "dict[str, object]") -> "dict[str, object]":
    """Carry out a request, or undo it wholly and raise RefusedError or OSError."""
    workspace = Workspace(root)
    answer: dict[str, object] = {}
    try:
        answer = change(workspace, request)
    except BaseException:
        workspace.roll_back()
        workspace.settle()
        raise
    if "held" not in answer:
        workspace.settle()
    return answer


def conclude(root: str, how: str, held: str) -> None:
    """Undo the change that is kept under the name `held`, or (`how` is "settle") make it final; raises OSError."""
    workspace = Workspace(root, held=held)
    if how == "undo":
        workspace.roll_back()
    workspace.settle()


def recover(root: str) -> None:
    """Take back every change that is not final, and remove what is left of those that are."""
    with os.scandir(root) as entries:
        found = [one.name for one in entries if TRASH.fullmatch(one.name) and one.is_dir(follow_symlinks=False)]
    for name in found:
        try:
            conclude(root, "undo", name)
        except FileNotFoundError:  # it has no journal
            directory = os.open(root, DIRECTORY)
            remove_by_programs(directory, name, CLEANING_S)
            os.close(directory)
        except OSError:
            continue  # what cannot be taken back now stays for the next time


def main() -> int:
    """Read the request, change the files, print the answer; returns the exit code."""
    root, *rest = sys.argv[1:]
    if rest == ["recover"]:
        recover(root)
        return 0
    if rest:
        conclude(root, *rest)
        return 0
    try:
        answer = changed(root, json.load(sys.stdin))
    except RefusedError as error:
        json.dump({"code": error.code, "message": error.message}, sys.stdout)
        return 3
    except OSError as error:
        json.dump({"code": "process_failed", "message": f"the workspace refused: {error.strerror}"}, sys.stdout)
        return 4
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

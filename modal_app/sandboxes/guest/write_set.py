"""Runs inside the sandbox as `python3 -I -c`: changes files of the workspace, all or nothing, following no link.

Reads one JSON object from stdin. Prints one on stdout and exits with 0; or prints `{"code", "message"}`, has changed
nothing, and exits with 3 when the change is not possible, or 4 when the workspace failed. With `hold`, what is needed
to undo the change is kept in the workspace, under the name that is printed as `held`. Called again with the arguments
`undo NAME`, it takes the change back together with what git has made of it since; with `settle NAME` it makes the
change final. Standard library only, and nothing is imported from the workspace.
"""

import base64
import json
import os
import shutil
import stat
import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

JOURNAL = "undo.json"
GIT_CHANGES = (".git/index", ".git/COMMIT_EDITMSG")
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RefusedError(Exception):
    """The change is not possible; nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Workspace:
    """A directory tree that is walked by descriptor, one component at a time, so that no link is followed.

    `undo` lists what was done as (path, kept): `kept` is the name under which the old content is put away, or "" when
    nothing was at the path before.
    """

    def __init__(self, root: str, held: str = "") -> None:
        self.root = os.open(root, DIRECTORY)
        self.trash = held or f".workbench-{os.urandom(6).hex()}"
        self.undo: list[tuple[str, str]] = []
        self.names = 0
        if not held:
            os.mkdir(self.trash, 0o700, dir_fd=self.root)
        self.trash_fd = os.open(self.trash, DIRECTORY, dir_fd=self.root)
        if held:
            with os.fdopen(os.open(JOURNAL, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.trash_fd)) as file:
                self.undo = json.load(file)
            self.names = len(self.undo)

    def hold(self) -> str:
        """Store what is needed to undo everything, and return the name under which it is kept."""
        self.keep(JOURNAL, json.dumps(self.undo).encode())
        return self.trash

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
            self.undo.append((".git", ""))
        elif self.kind(self.root, ".git") == "directory":
            for path in GIT_CHANGES:
                self.remember(path)

    def remember(self, path: str) -> None:
        """Keep a copy of a file for `undo`, or the fact that it does not exist."""
        with self.parent(path) as (parent, name):
            kept = self.kept_name() if self.kind(parent, name) == "file" else ""
            self.undo.append((path, kept))
            if kept:
                with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent), "rb") as file:
                    mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                    self.keep(kept, file.read(), mode)

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
        os.mkdir(part, 0o755, dir_fd=current)
        self.undo.append((make, ""))
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
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=parent)
            self.undo.append((path, ""))
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
        os.rename(name, kept, src_dir_fd=parent, dst_dir_fd=self.trash_fd)
        self.undo.append((path, kept))

    def kept_name(self) -> str:
        """A new name in the directory of what was put away."""
        self.names += 1
        return str(self.names)

    def roll_back(self) -> None:
        """Undo everything, the last change first.

        What was made is removed, with whatever it holds by now, and what was put away comes back. Every step is tried;
        then the first OSError is raised.
        """
        errors = []
        for path, kept in reversed(self.undo):
            try:
                with self.parent(path) as (parent, name):
                    if kept:
                        os.rename(kept, name, src_dir_fd=self.trash_fd, dst_dir_fd=parent)
                    else:
                        os.rename(name, self.kept_name(), src_dir_fd=parent, dst_dir_fd=self.trash_fd)
            except (FileNotFoundError, RefusedError):
                continue  # neither the path nor the directory around it exists any more
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def clean(self) -> None:
        """Remove what was put away."""
        shutil.rmtree(self.trash, dir_fd=self.root)


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
        return {"written": written} | ({"held": workspace.hold()} if request["hold"] else {})
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
        raise
    finally:
        if "held" not in answer:
            workspace.clean()
    return answer


def conclude(root: str, how: str, held: str) -> None:
    """Undo the change that is kept under the name `held`, or (`how` is "settle") make it final; raises OSError."""
    workspace = Workspace(root, held=held)
    try:
        if how == "undo":
            workspace.roll_back()
    finally:
        workspace.clean()


def main() -> int:
    """Read the request, change the files, print the answer; returns the exit code."""
    root, *rest = sys.argv[1:]
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

"""Runs inside the sandbox as `python3 -I -c`: changes files of the workspace, all or nothing, following no link.

Reads one JSON object from stdin; answers one on stdout and exits 0, or exits 3 with `{"code", "message"}` and nothing
changed. Standard library only, and nothing imported from the workspace.
"""

import base64
import json
import os
import shutil
import stat
import sys

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RefusedError(Exception):
    """The change is not possible; nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Workspace:
    """A directory tree that is walked by descriptor, one component at a time."""

    def __init__(self, root: str) -> None:
        self.root = os.open(root, DIRECTORY)
        self.undo: list[tuple[str, int, str, str]] = []
        self.trash = f".workbench-{os.urandom(6).hex()}"
        os.mkdir(self.trash, 0o700, dir_fd=self.root)
        self.trash_fd = os.open(self.trash, DIRECTORY, dir_fd=self.root)
        self.names = 0

    def parent(self, path: str, *, create: bool) -> tuple[int, str]:
        """An open directory and the last name of a path; directories on the way are made when asked."""
        current = os.dup(self.root)
        *directories, name = path.split("/")
        for part in directories:
            try:
                following = os.open(part, DIRECTORY, dir_fd=current)
            except FileNotFoundError:
                if not create:
                    raise RefusedError("not_found", f"there is no {path}") from None
                os.mkdir(part, 0o755, dir_fd=current)
                self.undo.append(("rmdir", os.dup(current), part, ""))
                following = os.open(part, DIRECTORY, dir_fd=current)
            except OSError:
                raise RefusedError("invalid_request", f"a component of {path} is not a directory, or a link") from None
            os.close(current)
            current = following
        return current, name

    def kind(self, parent: int, name: str) -> str:
        """What a name is: file, directory, link, other or nothing."""
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return "nothing"
        for kind, test in (("file", stat.S_ISREG), ("directory", stat.S_ISDIR), ("link", stat.S_ISLNK)):
            if test(mode):
                return kind
        return "other"

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole, in place of the one that is there; its mode is kept."""
        parent, name = self.parent(path, create=True)
        kind = self.kind(parent, name)
        if kind not in ("file", "nothing"):
            raise RefusedError("invalid_request", f"{path} is a {kind}")
        mode = 0o644
        if kind == "file":
            mode = stat.S_IMODE(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
            self.put_away(parent, name)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=parent)
        self.undo.append(("unlink", parent, name, ""))
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)

    def delete(self, path: str) -> None:
        """Delete a file, a link itself, or a directory."""
        parent, name = self.parent(path, create=False)
        if self.kind(parent, name) == "nothing":
            raise RefusedError("not_found", f"there is no {path}")
        self.put_away(parent, name)

    def move(self, path: str, to: str) -> None:
        """Move what is at a path to one where nothing is."""
        parent, name = self.parent(path, create=False)
        if self.kind(parent, name) == "nothing":
            raise RefusedError("not_found", f"there is no {path}")
        target, new_name = self.parent(to, create=True)
        if self.kind(target, new_name) != "nothing":
            raise RefusedError("invalid_request", f"{to} is there already")
        os.rename(name, new_name, src_dir_fd=parent, dst_dir_fd=target)

    def put_away(self, parent: int, name: str) -> None:
        """Move something to where it can be brought back from."""
        self.names += 1
        kept = str(self.names)
        os.rename(name, kept, src_dir_fd=parent, dst_dir_fd=self.trash_fd)
        self.undo.append(("back", os.dup(parent), name, kept))

    def roll_back(self) -> None:
        """Undo everything, the last first."""
        for what, parent, name, kept in reversed(self.undo):
            if what == "rmdir":
                os.rmdir(name, dir_fd=parent)
            elif what == "unlink":
                os.unlink(name, dir_fd=parent)
            else:
                os.rename(kept, name, src_dir_fd=self.trash_fd, dst_dir_fd=parent)

    def clean(self) -> None:
        """Remove what was put away."""
        shutil.rmtree(self.trash, dir_fd=self.root)


def change(workspace: Workspace, request: "dict[str, object]") -> "dict[str, object]":
    """Do what was asked and say what was done."""
    op = request["op"]
    if op == "write":
        written = []
        for file in request["files"]:  # type: ignore[attr-defined]  # the sender's own JSON
            data = base64.b64decode(file["data"])
            workspace.write(file["path"], data)
            written.append({"path": file["path"], "size": len(data)})
        return {"written": written}
    if op == "delete":
        workspace.delete(str(request["path"]))
        return {"deleted": request["path"]}
    workspace.move(str(request["path"]), str(request["to"]))
    return {"moved": request["path"], "to": request["to"]}


def main() -> int:
    """Read the request, change the files, answer."""
    request = json.load(sys.stdin)
    workspace = Workspace(sys.argv[1])
    try:
        try:
            answer = change(workspace, request)
        except BaseException:
            workspace.roll_back()
            raise
    except RefusedError as error:
        json.dump({"code": error.code, "message": error.message}, sys.stdout)
        return 3
    except OSError as error:
        json.dump({"code": "process_failed", "message": f"the workspace refused: {error.strerror}"}, sys.stdout)
        return 3
    finally:
        workspace.clean()
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

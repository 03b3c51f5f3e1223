"""The program that the SDK runs inside a sandbox for `Sandbox.filesystem`: its only argument is one command as JSON.

Data goes over stdin and stdout. An error is one JSON object `{error_kind, message}` on stderr with exit code 1, which
the SDK turns into its exceptions. It runs as the guest, under the system's own Python with nothing but its standard
library.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys

TYPE_CHECKING = False  # typing itself is a slow import
if TYPE_CHECKING:
    from typing import Any

MAX_READ_BYTES = 5 * 1024**3  # Modal's limit for one read
CHUNK_BYTES = 1024 * 1024
WATCH_PROGRAM = "/__modal/.bin/modal-sandbox-fs-watch"

# A read-only file system counts as "permission denied": nearly all of a sandbox outside of its mounts is read-only.
KINDS = {
    errno.ENOENT: ("NotFound", "no such file or directory"),
    errno.ENOTDIR: ("NotDirectory", "a component of the path is not a directory"),
    errno.EISDIR: ("IsDirectory", "is a directory"),
    errno.EACCES: ("PermissionDenied", "permission denied"),
    errno.EPERM: ("PermissionDenied", "operation not permitted"),
    errno.EROFS: ("PermissionDenied", "read-only file system"),
    errno.ENOTEMPTY: ("DirectoryNotEmpty", "directory is not empty"),
    errno.EEXIST: ("PathAlreadyExists", "path already exists"),
}


class FsError(Exception):
    """The command failed for a reason that has no errno; `kind` is the SDK's error_kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main() -> int:
    """Run the command in the first argument, {name: arguments} as JSON; returns the exit code."""
    try:
        command = json.loads(sys.argv[1])
        ((name, arguments),) = command.items()
        COMMANDS[name](arguments)
    except FsError as error:
        return fail(error.kind, str(error))
    except OSError as error:
        kind, message = KINDS.get(error.errno or 0, ("Other", error.strerror or str(error)))
        return fail(kind, message)
    except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        return fail("InvalidInput", "not a command: " + str(error))
    return 0


def fail(kind: str, message: str) -> int:
    """Print an error as the SDK reads it; returns exit code 1."""
    sys.stderr.write(json.dumps({"error_kind": kind, "message": message}))
    return 1


def read_file(arguments: dict[str, Any]) -> None:
    """Copy a file to stdout, at most 5 GiB; raises FsError for what is no file."""
    descriptor = os.open(arguments["path"], os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe must not block
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise FsError("IsDirectory", "is a directory")
        if stat.S_ISFIFO(found.st_mode):
            raise FsError("Other", "is a pipe")
        if found.st_size > MAX_READ_BYTES:
            raise too_large(found.st_size)
        total = 0
        while data := os.read(descriptor, CHUNK_BYTES):
            total += len(data)
            if total > MAX_READ_BYTES:  # a device, or a file that grows
                raise too_large(total)
            write_all(1, data)
    finally:
        os.close(descriptor)


def too_large(size: int) -> FsError:
    """Return the error for a file of `size` bytes, in Modal's words."""
    return FsError("FileTooLarge", f"file is {size} bytes, which exceeds the {MAX_READ_BYTES} byte limit")


def write_file(arguments: dict[str, Any]) -> None:
    """Write stdin to a temporary file and rename it, with the old file's mode: an interrupted write changes nothing."""
    path = arguments["path"]
    directory, _, name = path.rpartition("/")
    if not name or os.path.isdir(path):
        raise FsError("IsDirectory", "is a directory")
    try:
        os.makedirs(directory or "/", exist_ok=True)
    except FileExistsError:
        raise FsError("NotDirectory", "a component of the path is not a directory") from None
    temporary = directory + "/.modal-sandbox-fs-tmp-" + os.urandom(8).hex()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        try:
            while data := os.read(0, CHUNK_BYTES):
                write_all(descriptor, data)
            if os.path.isfile(path):
                os.fchmod(descriptor, stat.S_IMODE(os.stat(path).st_mode))
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes to a descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def list_files(arguments: dict[str, Any]) -> None:
    """Print the entries of a directory, sorted by name, as a JSON list."""
    path = arguments["path"]
    try:
        names = sorted(os.listdir(path))
    except NotADirectoryError:
        raise FsError("NotDirectory", "not a directory") from None
    entries = []
    for name in names:
        try:
            entries.append(describe(path.rstrip("/") + "/" + name, name))
        except FileNotFoundError:
            continue  # it was removed meanwhile
    sys.stdout.write(json.dumps(entries))


def describe_one(arguments: dict[str, Any]) -> None:
    """Print one entry as a JSON object."""
    path = arguments["path"]
    sys.stdout.write(json.dumps(describe(path, os.path.basename(path.rstrip("/")))))


def describe(path: str, name: str) -> dict[str, object]:
    """Return an entry as the SDK's FileInfo expects it; a link is not followed."""
    found = os.lstat(path)
    entry: dict[str, object] = {
        "name": name,
        "path": path,
        "type": "file",
        "size": found.st_size,
        "mode": found.st_mode,
        "permissions": format(stat.S_IMODE(found.st_mode), "04o"),
        "owner": NAMES["passwd"].get(found.st_uid, str(found.st_uid)),
        "group": NAMES["group"].get(found.st_gid, str(found.st_gid)),
        "modified_time": found.st_mtime,
    }
    if stat.S_ISDIR(found.st_mode):
        entry["type"] = "directory"
    elif stat.S_ISLNK(found.st_mode):
        entry["type"] = "symlink"
        entry["symlink_target"] = os.readlink(path)
    return entry


class Names(dict):  # type: ignore[type-arg]  # a plain dict at run time, under an older Python too
    """Names of users and groups by id, from the sandbox's /etc/passwd and /etc/group, each read on first use."""

    def __missing__(self, database: str) -> dict[int, str]:
        found: dict[int, str] = {}
        try:
            with open("/etc/" + database, encoding="utf-8", errors="replace") as file:
                for line in file:
                    name, _, number, *_ = line.split(":")
                    found.setdefault(int(number), name)
        except (OSError, ValueError):
            pass
        self[database] = found
        return found


NAMES = Names()


def make_directory(arguments: dict[str, Any]) -> None:
    """Make a directory; with `parents`, also those above it, and it may exist."""
    path = arguments["path"].rstrip("/") or "/"
    if not arguments["parents"]:
        os.mkdir(path)
    elif not os.path.isdir(path):
        if os.path.lexists(path):
            raise FsError("PathAlreadyExists", "path already exists")
        os.makedirs(path, exist_ok=True)


def remove(arguments: dict[str, Any]) -> None:
    """Remove a file or an empty directory; with `recursive`, any directory."""
    path = arguments["path"].rstrip("/") or "/"
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    elif arguments["recursive"]:
        import shutil  # only here: it takes longer to import than everything else to run

        shutil.rmtree(path)
    else:
        os.rmdir(path)


def watch(arguments: dict[str, Any]) -> None:
    """Become the program that watches a path."""
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    started_by = words[: words.index(os.fsencode(sys.argv[0]))]  # the interpreter and its options
    os.execv(started_by[0], [*started_by, WATCH_PROGRAM.encode(), json.dumps(arguments).encode()])  # noqa: S606  # no shell is the point


COMMANDS = {
    "ReadFile": read_file,
    "WriteFile": write_file,
    "ListFiles": list_files,
    "Stat": describe_one,
    "MakeDirectory": make_directory,
    "Remove": remove,
    "Watch": watch,
}

if __name__ == "__main__":
    sys.exit(main())

"""Runs inside the sandbox as `python3 -I -c`, before a run's job: removes the locks that a killed git has left.

It is run while the project's lease is held and before the job starts, so no living git owns any of the locks. Locks are
the files that git makes in a repository's own directory: `*.lock` for the index, a reference or a settings file, and
`gc.pid`. It prints one line of JSON, `{"removed", "first"}`: how many were removed, and the first paths. Standard
library only; it follows no link.
"""

import json
import os
import re
import sys

FIRST = 5
HEAD = re.compile(rb"ref: refs/|[0-9a-f]{40}")
OTHERS = ("hooks", "lfs", "annex")  # directories of other programs, directly in a repository


def entries(path: bytes) -> "list[os.DirEntry[bytes]]":
    """The entries of a directory, sorted by name; empty for one that cannot be read or does not exist any more."""
    try:
        with os.scandir(path) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return []


def is_repository(path: bytes, names: "set[bytes]") -> bool:
    """Whether git would take a directory, which holds these names, for a `.git` or a bare repository."""
    if not {b"HEAD", b"objects", b"refs"} <= names:
        return False
    try:
        descriptor = os.open(path + b"/HEAD", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            return bool(HEAD.match(file.read(64)))
    except OSError:
        return False


def locks(root: bytes) -> "list[bytes]":
    """The path of every lock below a directory."""
    found = []
    waiting = [(root, False)]
    while waiting:
        path, inside = waiting.pop()
        listed = entries(path)
        top = path.endswith(b"/.git") or is_repository(path, {entry.name for entry in listed})
        inside = inside or top
        for entry in listed:
            if entry.is_dir(follow_symlinks=False):
                if not (top and os.fsdecode(entry.name) in OTHERS):
                    waiting.append((entry.path, inside))
            elif inside and (entry.name.endswith(b".lock") or entry.name == b"gc.pid"):
                found.append(entry.path)
    return found


def main() -> None:
    """Remove the locks below the directory that is the first argument, and print which."""
    root = os.fsencode(sys.argv[1])
    removed = []
    for path in locks(root):
        try:
            os.unlink(path)
        except OSError:
            continue
        removed.append(path[len(root) + 1 :].decode(errors="backslashreplace"))
    json.dump({"removed": len(removed), "first": sorted(removed)[:FIRST]}, sys.stdout)
    sys.stdout.write("\n")


main()

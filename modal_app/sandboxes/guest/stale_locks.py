"""Runs inside the sandbox as `python3 -I -c`, before a run's job: removes the locks that a killed git has left.

Whoever runs it holds the project, so that no git that still lives owns any of them. A lock is what git itself makes in
a repository's own directory: `*.lock` for the index, a reference or a file of settings, and `gc.pid`. It answers one
line of JSON, `{"removed", "first"}`: how many, and the first paths. Standard library only; it follows no link.
"""

import json
import os
import re
import sys

FIRST = 5
HEAD = re.compile(rb"ref: refs/|[0-9a-f]{40}")
OTHERS = ("hooks", "lfs", "annex")  # directories in a repository's own that belong to other programs


def entries(path: bytes) -> "list[os.DirEntry[bytes]]":
    """What a directory holds; nothing for one that cannot be read, or is none any more."""
    try:
        with os.scandir(path) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return []


def is_repository(path: bytes, names: "set[bytes]") -> bool:
    """Whether git takes a directory for a repository's own, `.git` or a bare one: by what git itself looks at."""
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
        inside = inside or path.endswith(b"/.git")
        top = not inside and is_repository(path, {entry.name for entry in listed})
        for entry in listed:
            if entry.is_dir(follow_symlinks=False):
                if not ((inside or top) and os.fsdecode(entry.name) in OTHERS):
                    waiting.append((entry.path, inside or top))
            elif (inside or top) and (entry.name.endswith(b".lock") or entry.name == b"gc.pid"):
                found.append(entry.path)
    return found


def main() -> None:
    """Remove them and say which."""
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

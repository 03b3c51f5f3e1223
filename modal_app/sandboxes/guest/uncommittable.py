"""Runs inside the sandbox as `python3 -I -c`, after a commit that failed: finds the files that no volume can hold.

It prints one line of JSON, `{"count", "first": [[path, reason], …]}`. Standard library only; it follows no link, and
does not descend below the depth that a volume allows.
"""

import json
import os
import stat
import sys

FIRST = 5
MAX_DEPTH = 100
MAX_PATH_BYTES = 4096
MAX_FILE_BYTES = 16 * 1024**3
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NAME = "its name is not UTF-8"
TARGET = "the link's target is not UTF-8"
DEEP = f"it lies more than {MAX_DEPTH} directories deep, or its path has more than {MAX_PATH_BYTES} bytes"
LARGE = f"it is larger than {MAX_FILE_BYTES // 1024**3} GiB"


def is_text(name: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


class Look:
    """A search below a directory; `found` are the first five (path, reason), `count` is how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self.found: list[tuple[str, str]] = []

    def note(self, path: bytes, reason: str) -> None:
        """Count something that cannot be committed."""
        self.count += 1
        if len(self.found) < FIRST:
            self.found.append((path.decode(errors="backslashreplace"), reason))

    def at(self, directory: int, prefix: bytes, depth: int) -> None:
        """Search an open directory; `prefix` is its path from the root, with a slash at the end, `depth` its depth."""
        for name in sorted(os.fsencode(name) for name in os.listdir(directory)):
            path = prefix + name
            if not is_text(name):
                self.note(path, NAME)
            elif depth >= MAX_DEPTH or len(path) > MAX_PATH_BYTES:
                self.note(path, DEEP)
            else:
                try:
                    self.one(directory, name, path, depth)
                except OSError:
                    continue  # it is gone, or nobody may look at it

    def one(self, directory: int, name: bytes, path: bytes, depth: int) -> None:
        """Check one entry whose name is fine, and search it if it is a directory; raises OSError."""
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode) and not is_text(os.readlink(name, dir_fd=directory)):
            self.note(path, TARGET)
        elif stat.S_ISREG(status.st_mode) and status.st_size > MAX_FILE_BYTES:
            self.note(path, LARGE)
        elif stat.S_ISDIR(status.st_mode):
            inner = os.open(name, DIRECTORY, dir_fd=directory)
            try:
                self.at(inner, path + b"/", depth + 1)
            finally:
                os.close(inner)


def main() -> None:
    """Search the directory that is the first argument, and print what was found."""
    look = Look()
    look.at(os.open(sys.argv[1], DIRECTORY), b"", 0)
    json.dump({"count": look.count, "first": look.found}, sys.stdout)
    sys.stdout.write("\n")


main()

"""Removes what a cloud has on this machine once it is gone, however it went. Runs as a small process of its own.

That is its run directory, and the control groups that a note in it names. It holds the reading end of a pipe whose
other end only the cloud has: end of file is the cloud's end. Standard library only, so that it starts in a moment and
depends on nothing that an upgrade may replace under it.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ATTEMPTS = 50
NOTE = Path("sandboxes", "cgroups")  # written by the sandboxes' engine, one directory a line


def main() -> None:
    """Wait for the end of standard input, then remove the directory that the first argument names."""
    directory = Path(sys.argv[1])
    while os.read(0, 4096):
        pass
    try:
        groups = [Path(line) for line in (directory / NOTE).read_text().splitlines()]
    except OSError:
        groups = []
    for _ in range(ATTEMPTS):  # guests of the cloud may need a moment to be gone
        shutil.rmtree(directory, onerror=partial(_unlock, directory))
        groups = [group for group in groups if not _is_removed(group)]
        if not os.path.lexists(directory) and not groups:
            return
        time.sleep(0.1)


def _is_removed(group: Path) -> bool:
    """Remove a control group and those in it; False while processes are left."""
    if group.is_dir():
        for child in (*(path for path in group.iterdir() if path.is_dir()), group):
            with contextlib.suppress(OSError):
                child.rmdir()
    return not group.exists()


def _unlock(top: Path, _function: Callable[..., object], path: str, _error: object) -> None:
    """Let us into a directory whose mode keeps its owner out; the next attempt removes it.

    What is above `top` belongs to the next cloud, which may have removed all of this meanwhile.
    """
    for locked in (Path(path).parent, Path(path)):
        if not locked.is_relative_to(top):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(locked, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                Path(f"/proc/self/fd/{descriptor}").chmod(0o700)  # this very directory, never a link
            finally:
                os.close(descriptor)


if __name__ == "__main__":
    main()

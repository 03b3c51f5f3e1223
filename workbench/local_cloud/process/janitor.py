"""Removes what a cloud has left on this machine when it has ended, also after a kill. A small process of its own.

It removes the cloud's run directory, and the control groups that a file in it lists. Its standard input is a pipe whose
other end only the cloud has, so its end of file means the cloud's end. It uses the standard library only: it starts
quickly, and an upgrade of packages cannot break it while it runs.
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
        groups = [Path(line) for line in (directory / NOTE).read_text(encoding="utf-8").splitlines()]
    except OSError:
        groups = []
    for _ in range(ATTEMPTS):  # the cloud's guests may need a moment to end
        shutil.rmtree(directory, onerror=partial(_unlock, directory))
        groups = [group for group in groups if not _is_removed(group)]
        if not os.path.lexists(directory) and not groups:
            return
        time.sleep(0.1)


def _is_removed(group: Path) -> bool:
    """Remove a control group and the groups in it; returns False while they have processes."""
    if group.is_dir():
        for child in (*(path for path in group.iterdir() if path.is_dir()), group):
            with contextlib.suppress(OSError):
                child.rmdir()
    return not group.exists()


def _unlock(top: Path, _function: Callable[..., object], path: str, _error: object) -> None:
    """Make a directory of ours writable whose mode forbids that, so that the next attempt can remove it.

    Only at or below `top`: directories above it belong to the next cloud.
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

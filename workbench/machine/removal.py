"""Removes a directory when the process that made it has ended, also after a kill. A small process of its own.

Its standard input is a pipe whose other end only that process has, so its end of file means that process's end. Local
clouds with their state in the directory end with the process, too, and are waited for.
"""

import fcntl
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

WAIT_S = 60.0
"""How long a cloud may take to end, and the removal after it, each."""
_PAUSE_S = 0.1


def main() -> None:
    """Wait for the end of standard input, then remove the directory that the first argument names."""
    root = Path(sys.argv[1])
    while os.read(0, 4096):
        pass
    for lock in root.glob("*/lock"):
        _wait_for(lock)
    from workbench.local_cloud import remove_tree  # here: most of these processes wait for long, and need nothing

    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            remove_tree(root)
            return
        except OSError:  # what ran in the cloud may need a moment to end
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)


def _wait_for(lock: Path) -> None:
    """Wait until no cloud holds the lock of its state directory, at most WAIT_S seconds."""
    deadline = time.monotonic() + WAIT_S
    with suppress(FileNotFoundError):
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            while time.monotonic() < deadline:
                with suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                time.sleep(_PAUSE_S)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    main()

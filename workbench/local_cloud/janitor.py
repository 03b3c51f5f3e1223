"""Removes a run directory once the cloud that owned it is gone, however it went. Runs as a small process of its own.

It holds the reading end of a pipe whose other end only the cloud has: end of file is the cloud's end. Standard library
only, so that it starts in a moment and depends on nothing that an upgrade may replace under it.
"""

import os
import shutil
import sys
import time

ATTEMPTS = 50


def main() -> None:
    """Wait for the end of standard input, then remove the directory that the first argument names."""
    directory = sys.argv[1]
    while os.read(0, 4096):
        pass
    for _ in range(ATTEMPTS):  # guests of the cloud may need a moment to be gone
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.lexists(directory):
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()

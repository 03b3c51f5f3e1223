"""Removes what a cloud has left on this machine when it has ended, also after a kill. A small process of its own.

It ends the processes that bear the cloud's mark, and removes the cloud's run directory and the control groups that a
file in it lists. Its standard input is a pipe whose other end only the cloud has, so its end of file means the cloud's
end; a process that the cloud has forked holds that end, too, until it executes its program, which then bears the mark.
It uses the standard library only: it starts quickly, and an upgrade of packages cannot break it while it runs.

Why a mark in the environment: every process inherits it from the moment of its start, so no list can miss one, nobody
can put it on another's process, and a reused process id does not bear it. See `base/programs.py`.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ATTEMPTS = 50
NOTE = Path("sandboxes", "cgroups")  # written by the sandboxes' engine, one directory a line


LOOKS = 3  # a process bears no mark for the instant in which it executes its program: one look may miss it
_PAUSE_S = 0.1
_END_S = 5.0


def main() -> None:
    """Wait for the end of standard input, then end processes and remove the directory that the first argument names.

    The second argument, if there is one, is the cloud's mark, `NAME=value`. Any byte on standard input means that the
    cloud ends by itself: then one look for marked processes is enough.
    """
    directory, marks = Path(sys.argv[1]), sys.argv[2:]
    looks = LOOKS
    while os.read(0, 4096):
        looks = 1
    for mark in marks:
        end_processes(mark, looks=looks)
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


def end_processes(mark: str, *, looks: int = LOOKS) -> None:
    """Kill every process with `mark` (`NAME=value`) in its environment, until `looks` looks in a row have found none.

    Blocks for up to 5 s; never raises for a process that it cannot look at.
    """
    entry, clean = os.fsencode(mark), 0
    deadline = time.monotonic() + _END_S
    while clean < looks and time.monotonic() < deadline:
        found = [pid for pid in _processes() if _bears(pid, entry)]
        for pid in found:
            _kill(pid, entry)
        clean = 0 if found else clean + 1
        if clean < looks:
            time.sleep(_PAUSE_S)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _bears(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another user's
        return False


def _kill(pid: int, mark: bytes) -> None:
    """Kill a process if it bears the mark, never another one that has got its id meanwhile."""
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            if _bears(pid, mark):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


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

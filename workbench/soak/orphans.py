"""Makes this process adopt all orphans among its descendants, so that no process that it has started can hide.

Linux gives an orphan to its nearest ancestor that has asked for orphans (PR_SET_CHILD_SUBREAPER, prctl(2)), also one
that has daemonised itself. So every process that survives is a descendant, whatever its command line is.
"""

import contextlib
import ctypes
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_END_S = 10.0


@contextmanager
def adopted() -> Iterator[None]:
    """Adopt orphans for the duration of the block; then kill every descendant that has come in it and is left."""
    before = set(alive())
    _set(True)
    try:
        yield
    finally:
        end(apart_from=before)
        _set(False)


def alive() -> list[psutil.Process]:
    """Every descendant of this process that has not ended."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def reap(*, apart_from: Collection[int] = ()) -> None:
    """Reap adopted children that have ended, except those with ids in `apart_from`, which others wait for."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if process.pid not in apart_from and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def end(*, apart_from: Collection[psutil.Process] = ()) -> None:
    """Kill every descendant of this process, except some."""
    for _ in range(3):  # a process may fork while it is being killed
        processes = [process for process in alive() if process not in apart_from]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=_END_S)
    reap()


def _set(wanted: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

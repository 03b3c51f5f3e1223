"""Makes this process the parent of whatever is orphaned below it, so that nothing it has started can hide.

Linux gives an orphan to its nearest ancestor that asked for orphans (PR_SET_CHILD_SUBREAPER, prctl(2)), also one that
daemonised itself. So every survivor is a descendant, whatever its command line says.
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
    """Be that parent; whatever is still there afterwards is killed."""
    _set(True)
    try:
        yield
    finally:
        end()
        _set(False)


def alive() -> list[psutil.Process]:
    """Every process below this one that has not ended."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def reap(*, apart_from: Collection[int] = ()) -> None:
    """Take note of the ends of adopted children. `apart_from` are the ids whose ends somebody else waits for."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if process.pid not in apart_from and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def end() -> None:
    """Kill every process below this one."""
    for _ in range(3):  # a process may fork while it is being killed
        processes = alive()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=_END_S)
    reap()


def _set(wanted: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

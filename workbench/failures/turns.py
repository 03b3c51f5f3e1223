"""Lets sessions share the lab's two apps: whoever deploys them waits until nobody's experiment uses them.

The lock is the operating system's, so a session that is killed holds none.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import WorkbenchError

PATIENCE_S = 600.0
_LOOK_S = 0.2


class LabBusyError(WorkbenchError):
    """Another session's experiment did not end in time."""


@contextmanager
def using(path: Path, on_wait: Callable[[str], None], *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Use the apps while the block lasts, beside others. Raises LabBusyError."""
    with _locked(path, fcntl.LOCK_SH, on_wait, patience_s):
        yield


@contextmanager
def alone(path: Path, on_wait: Callable[[str], None], *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Have the apps alone while the block lasts. Raises LabBusyError."""
    with _locked(path, fcntl.LOCK_EX, on_wait, patience_s):
        yield


@contextmanager
def _locked(path: Path, kind: int, on_wait: Callable[[str], None], patience_s: float) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    said = False
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LabBusyError(
                        f"another session has used the failure lab for {patience_s:.0f} s: wait for its end, or end it"
                    ) from None
            if not said:
                on_wait("another session uses the failure lab: waiting for its end")
                said = True
            time.sleep(_LOOK_S)
        yield

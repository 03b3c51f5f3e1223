"""The mark that tells the processes of one run of a cloud from all others, and the janitor that ends them by it.

The mark is a variable in the environment. What `Program` starts bears it, and so does what that starts.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from workbench.local_cloud.base.programs import RUN_MARK
from workbench.local_cloud.process import janitor

_DISMISS_S = 30.0


def mark_of(run: Path) -> str:
    """Return what marks the processes of the cloud that owns a run directory, as `NAME=value`.

    It names the directory by its random name, device and inode: that of a copied state directory is another one.
    """
    status = run.lstat()
    return f"{RUN_MARK}={run.name}-{status.st_dev:x}-{status.st_ino:x}"


def end_what_is_left(runs: Path) -> None:
    """End the processes of every cloud that has left its run directory in `runs`. Blocks for up to 5 s for each."""
    for run in runs.iterdir():
        janitor.end_processes(mark_of(run))


def start_janitor(run: Path) -> "subprocess.Popen[bytes]":
    """Start the janitor of a run, and mark all that this process starts from here on as the run's."""
    mark = mark_of(run)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", janitor.__file__, str(run), mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    os.environ[RUN_MARK] = mark.partition("=")[2]
    return process


def dismiss(process: "subprocess.Popen[bytes]") -> None:
    """Tell the janitor that this cloud ends by itself, and wait for it."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # somebody has killed it
        os.write(process.stdin.fileno(), b".")
    process.stdin.close()
    process.wait(timeout=_DISMISS_S)

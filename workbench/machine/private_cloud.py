"""Temporary directories for private local clouds, for whoever must not touch other state and leave nothing."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.local_cloud import OWNER_VARIABLE
from workbench.machine.environment import environment
from workbench.machine.removal import WAIT_S

_REMOVAL_S = 3 * WAIT_S


@contextmanager
def private_root(purpose: str) -> Iterator[Path]:
    """A new directory, removed with everything in it when the block ends, and when this process does, even by a kill.

    Other users may enter it, but not list it. A local cloud with its state in a directory of it must have ended with
    the block, or end with this process.
    """
    root = Path(tempfile.mkdtemp(prefix=f"workbench-{purpose}-"))
    root.chmod(0o711)  # when the cloud runs as root, its sandboxes run as other users and must be able to enter
    remover = subprocess.Popen(
        [sys.executable, "-m", "workbench.machine.removal", str(root)],
        stdin=subprocess.PIPE,
        cwd="/",
        start_new_session=True,  # Ctrl-C is not meant for it
    )
    try:
        yield root
    finally:
        assert remover.stdin is not None
        remover.stdin.close()
        try:
            remover.wait(_REMOVAL_S)
        except subprocess.TimeoutExpired:
            remover.kill()
            remover.wait()


@contextmanager
def cloud_variables(root: Path) -> Iterator[None]:
    """For the block, what a cloud reads when it is started: its own TMPDIR below `root`, and that it ends with us."""
    temporary = root / "tmp"
    temporary.mkdir(mode=0o711, exist_ok=True)
    with environment({"TMPDIR": str(temporary), OWNER_VARIABLE: str(os.getpid())}):
        yield


@contextmanager
def private_directory(purpose: str) -> Iterator[Path]:
    """A `private_root` that during the block also holds the temporary directory (TMPDIR) of this process.

    Local clouds that are started within the block end with this process, even when it is killed.
    """
    with private_root(purpose) as root:
        try:
            with cloud_variables(root):
                tempfile.tempdir = os.environ["TMPDIR"]
                yield root
        finally:
            tempfile.tempdir = None

"""A temporary directory for a private local cloud, for commands that must not touch other state and leave nothing."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.local_cloud import OWNER_VARIABLE, remove_tree
from workbench.machine.environment import environment


@contextmanager
def private_directory(purpose: str) -> Iterator[Path]:
    """A new directory, removed with everything in it when the block ends. Other users may enter it, but not list it.

    During the block it also holds the temporary directory (TMPDIR) of this process and of all that it starts. Local
    clouds that are started within the block end with this process, even when it is killed.
    """
    root = Path(tempfile.mkdtemp(prefix=f"workbench-{purpose}-"))
    try:
        root.chmod(0o711)  # when the cloud runs as root, its sandboxes run as other users and must be able to enter
        temporary = root / "tmp"
        temporary.mkdir(mode=0o711)
        with environment({"TMPDIR": str(temporary), OWNER_VARIABLE: str(os.getpid())}):
            tempfile.tempdir = str(temporary)
            yield root
    finally:
        tempfile.tempdir = None
        remove_tree(root)

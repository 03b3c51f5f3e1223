"""A directory for a cloud of one's own, for commands that must not meet anybody's state, and leave nothing."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.local_cloud import OWNER_VARIABLE, remove_tree
from workbench.machine.environment import environment


@contextmanager
def private_directory(purpose: str) -> Iterator[Path]:
    """A directory that is removed; it also takes what anybody below this process makes in the temporary directory.

    Clouds that are started within the block end with this process, even when it is killed.
    """
    root = Path(tempfile.mkdtemp(prefix=f"workbench-{purpose}-"))
    try:
        root.chmod(0o711)  # as root, sandboxes have users of their own
        temporary = root / "tmp"
        temporary.mkdir(mode=0o711)
        with environment({"TMPDIR": str(temporary), OWNER_VARIABLE: str(os.getpid())}):
            tempfile.tempdir = str(temporary)
            yield root
    finally:
        tempfile.tempdir = None
        remove_tree(root)

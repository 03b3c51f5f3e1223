"""The build context of one layer: laid out when a step first needs it, open to root inside, and fingerprinted.

A COPY's layer is found again when what it copies is the same; other files of the context do not matter.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from workbench.local_cloud.base.threads import to_its_end
from workbench.local_cloud.images.plans import CopyFiles
from workbench.local_cloud.rootfs.copying import Tree


class Context:
    """Files on the host that a layer's COPY instructions read."""

    def __init__(self, directory: Path, fill: Callable[[Path], None]) -> None:
        """`directory` does not exist yet; `fill` makes it and lays the files out."""
        self._directory = directory
        self._fill = fill
        self._filled = False
        self._extra = 0

    async def files(self) -> Path:
        """Return the directory with the context. Raises RefusedError, OSError."""
        if not self._filled:
            await to_its_end(self._fill, self._directory)
            self._filled = True
        return self._directory

    def beside(self) -> Path:
        """Return a new directory for a file that is not of the context."""
        self._extra += 1
        directory = self._directory.with_name(f"beside-{self._extra}")
        directory.mkdir(mode=0o755)
        return directory


def fingerprint(directory: Path, step: CopyFiles) -> str:
    """Return what identifies the files of a directory that a COPY takes. Raises CopyRefusedError."""
    digest = hashlib.sha256()
    tree = Tree.of(directory, keeps=False)
    try:
        for pattern in step.sources:
            for real in tree.matches(pattern):
                _add(digest.update, tree.path(real), real)
    finally:
        os.close(tree.places.root)
    return digest.hexdigest()


def _add(update: Callable[[bytes], None], path: Path, name: str) -> None:
    status = path.lstat()
    if path.is_symlink():
        content = str(path.readlink())
    elif path.is_file():
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        content = ""
    update(repr((name, status.st_mode, content)).encode())
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            _add(update, entry, f"{name}/{entry.name}")


def open_to_all(directory: Path) -> None:
    """Let every user read what is in a directory, whatever the umask is."""
    for here, _, names in os.walk(directory):
        Path(here).chmod(0o755)
        for name in names:
            path = Path(here, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o444)

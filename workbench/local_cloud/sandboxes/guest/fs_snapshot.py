"""The program that the cloud runs inside a sandbox for snapshots: it packs directories into a tar, or unpacks one.

It runs as the guest, so the tar may hold anything, and unpacking can write only where the guest can. The host never
parses a tar. Runs under the system's own Python with nothing but its standard library.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile

TYPE_CHECKING = False  # typing itself is a slow import
if TYPE_CHECKING:
    from typing import Any

UNDER = ".modal-under-"  # prefix of the directory that keeps what a mounted image hides, beside it


def main() -> int:
    """Run the command in the first argument, {name: arguments} as JSON; prints the reason if it fails."""
    ((name, arguments),) = json.loads(sys.argv[1]).items()
    try:
        {"Save": save, "Restore": restore, "Mount": mount, "Unmount": unmount}[name](arguments)
    except (OSError, tarfile.TarError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        sys.stderr.write(text)
        return 1
    return 0


def save(arguments: dict[str, Any]) -> None:
    """Write a tar of everything below `paths` to stdout, named relative to `top`, without `exclude` and sockets."""
    exclude = set(arguments["exclude"])

    def add(archive: tarfile.TarFile, directory: str, *, is_top: bool) -> None:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            if is_top:
                raise
            return  # it was removed, or we may not read it
        for name in names:
            path = os.path.join(directory, name)
            if path in exclude or name.startswith(UNDER):
                continue
            try:
                member = archive.gettarinfo(path, os.path.relpath(path, arguments["top"]))
                if member is None:
                    continue  # a socket
                if member.isreg():
                    with open(path, "rb") as file:
                        archive.addfile(member, Padded(file))
                else:
                    archive.addfile(member)
            except (PermissionError, FileNotFoundError):
                continue
            if member.isdir():
                add(archive, path, is_top=False)

    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in arguments["paths"]:
            add(archive, os.path.realpath(path), is_top=True)


class Padded:
    """Reads a file and pads it with zeros up to the size in its tar header, should it have become shorter meanwhile."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int = 0, /) -> bytes:
        """Read exactly `size` bytes, with zeros for those after the end of the file."""
        data: bytes = self.file.read(size)
        return data + bytes(size - len(data))


def restore(arguments: dict[str, Any]) -> None:
    """Unpack the tar at stdin below `path`."""
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        if hasattr(tarfile, "fully_trusted_filter"):  # we are the guest, so unpacking gives it no new rights
            archive.extraction_filter = tarfile.fully_trusted_filter
        archive.extractall(arguments["path"])  # noqa: S202  # see above


def mount(arguments: dict[str, Any]) -> None:
    """Move the directory `path` aside and unpack the tar at stdin in its place; undone if that fails."""
    path = arguments["path"]
    os.makedirs(path, exist_ok=True)
    under = stash(path)
    os.rename(path, under)
    try:
        os.mkdir(path)
        restore(arguments)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        os.rename(under, path)
        raise


def unmount(arguments: dict[str, Any]) -> None:
    """Remove the directory `path` and move the one back that `mount` has moved aside."""
    path = arguments["path"]
    under = stash(path)
    os.stat(under)
    shutil.rmtree(path)
    os.rename(under, path)


def stash(path: str) -> str:
    """Return where `mount` moves the directory `path`."""
    parent, name = os.path.split(path)
    return os.path.join(parent, UNDER + name)


if __name__ == "__main__":
    sys.exit(main())

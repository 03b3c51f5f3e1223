"""Names within a layer, and what stands under them: by descriptors of directories, and never through a link."""

import errno
import os
import stat

from workbench.local_cloud.registry.unpacking.limits import Limits
from workbench.local_cloud.registry.unpacking.refusals import LayerRefusedError

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[bytes, ...]  # a name below the layer's root, component by component; () is the root


def parts_of(name: str, limits: Limits, what: str) -> Parts:
    """Take a name of the archive apart; `what` begins the message of the LayerRefusedError."""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > limits.name:
        raise LayerRefusedError(f"{what} has a name of more than {limits.name} bytes.")
    if b"\0" in raw:
        raise LayerRefusedError(f"{what} has a zero byte in its name.")
    if raw.startswith(b"/"):
        raise LayerRefusedError(f"{what} is named from the root of the file system on.")
    parts = tuple(part for part in raw.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise LayerRefusedError(f"{what} leads out of the layer by '..'.")
    if len(parts) > limits.depth:
        raise LayerRefusedError(f"{what} is deeper than {limits.depth} directories.")
    if any(len(part) > limits.component for part in parts):
        raise LayerRefusedError(f"{what} has a component of more than {limits.component} bytes.")
    return parts


def open_directory(directory: int, parts: Parts) -> int:
    """Open a directory below another one; raises FileNotFoundError, NotADirectoryError (also for a link)."""
    descriptor = os.dup(directory)
    for part in parts:
        try:
            inner = os.open(part, DIRECTORY, dir_fd=descriptor)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
            raise
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def look(name: bytes, directory: int) -> os.stat_result | None:
    """Return what stands under a name, without following it; None for nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_whiteout(found: os.stat_result) -> bool:
    """Whether an entry hides what the layers below have under its name."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0

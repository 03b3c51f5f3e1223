"""Host-side hands for directories that guests write: everything goes by descriptors, one name at a time.

No function here follows a symbolic link, blocks on a FIFO or opens a device, whatever the guest swaps meanwhile.
Called by working copies only, from worker threads.
"""

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MAX_DEPTH = 100  # one descriptor is open per level while walking
MAX_PATH_BYTES = 4096
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """One thing seen while walking. `directory` is an open descriptor, valid until the walk goes on."""

    path: str
    name: str
    directory: int
    status: os.stat_result


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is not taken, and why. The path is printable.

    What no volume can hold (a socket, a device) is no loss; whatever else is skipped is.
    """

    path: str
    reason: str
    is_loss: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextmanager
def opened_dir(path: Path | str, *, dir_fd: int | None = None) -> Iterator[int]:
    """Open a directory that is no link; raises OSError."""
    descriptor = os.open(path, _OPEN_DIR, dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_parent(root: int, path: str) -> Iterator[tuple[int, str]]:
    """Open the directory that holds `path` below `root`; gives (descriptor, last name). Raises OSError."""
    *above, name = path.split("/")
    here = os.dup(root)
    try:
        for part in above:
            inner = os.open(part, _OPEN_DIR, dir_fd=here)
            os.close(here)
            here = inner
        yield here, name
    finally:
        os.close(here)


def open_regular(name: str, *, dir_fd: int) -> int | None:
    """Open a regular file for reading; None when the name is something else by now. Raises OSError.

    A mode that keeps its owner out keeps us out only where the file is not ours.
    """
    try:
        descriptor = os.open(name, _OPEN_FILE, dir_fd=dir_fd)
    except PermissionError:
        with _let_in(name, 0o400, dir_fd=dir_fd):
            descriptor = os.open(name, _OPEN_FILE, dir_fd=dir_fd)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def walk(directory: int, skipped: list[Skipped], *, prefix: str = "", depth: int = 0) -> Iterator[Found]:
    """Yield everything below an open directory, parents first; what cannot be read is added to `skipped`."""
    for name in sorted(_names(directory)):
        path = prefix + name
        try:
            too_long = len(path.encode()) > MAX_PATH_BYTES
        except UnicodeEncodeError:
            skipped.append(Skipped(path.encode(errors="backslashreplace").decode(), "the name is not UTF-8"))
            continue
        if too_long or depth >= MAX_DEPTH:
            skipped.append(Skipped(path, f"deeper than {MAX_DEPTH} directories or {MAX_PATH_BYTES} bytes of path"))
            continue
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield Found(path, name, directory, status)
        if stat.S_ISDIR(status.st_mode):
            try:
                with _let_in(name, 0o500, dir_fd=directory), opened_dir(name, dir_fd=directory) as inner:
                    yield from walk(inner, skipped, prefix=path + "/", depth=depth + 1)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                skipped.append(Skipped(path, f"the directory cannot be read ({error.strerror})"))


@contextmanager
def _let_in(name: str, needed: int, *, dir_fd: int) -> Iterator[None]:
    """Let us into a file or directory of ours whose mode keeps its owner out, for as long as the block lasts.

    Root needs no such thing. Raises OSError.
    """
    if os.geteuid() == 0:
        yield
        return
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & needed == needed:
            yield
            return
        this = f"/proc/self/fd/{descriptor}"  # reaches this very file, never a link
        os.chmod(this, mode | needed)  # noqa: PTH101
        try:
            yield
        finally:
            os.chmod(this, mode)  # noqa: PTH101
    finally:
        os.close(descriptor)


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as listing:
        return [item.name for item in listing]


def remove_tree(root: Path) -> None:
    """Remove a directory and all that is below it, however deep and whatever its modes. Idempotent; raises OSError.

    Somebody else may be removing it, too.
    """
    with suppress(FileNotFoundError), opened_dir(root) as top:
        while names := _names(top):
            for name in names:
                with suppress(FileNotFoundError):
                    _dissolve(top, name)
        root.rmdir()


def _dissolve(top: int, name: str) -> None:
    """Remove one name of `top`; directories below it move up into `top`, so that no depth can exhaust anything."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=top)
        return
    _unlock(name, dir_fd=top)
    with opened_dir(name, dir_fd=top) as directory:
        for child in _names(directory):
            if stat.S_ISDIR(os.stat(child, dir_fd=directory, follow_symlinks=False).st_mode):
                _unlock(child, dir_fd=directory)
                os.rename(child, uuid.uuid4().hex, src_dir_fd=directory, dst_dir_fd=top)
            else:
                os.unlink(child, dir_fd=directory)
    os.rmdir(name, dir_fd=top)


def _unlock(name: str, *, dir_fd: int) -> None:
    """Let us into a directory whose mode keeps its owner out; root needs no such thing."""
    if os.geteuid() != 0:
        descriptor = os.open(name, _OPEN_PATH, dir_fd=dir_fd)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)  # noqa: PTH101  # reaches this very directory, never a link
        finally:
            os.close(descriptor)

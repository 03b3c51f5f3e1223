"""Reads and removes directories that guests write, safely: by open descriptors, one path component at a time.

No function here follows a symbolic link, blocks on a FIFO or opens a device, whatever the guest swaps meanwhile.
They block, so they are called from worker threads.
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
    """One entry that `walk` yields.

    `path` is relative to the root of the walk, `directory` an open descriptor of the directory that holds `name`. It is
    valid until the walk goes on.
    """

    path: str
    name: str
    directory: int
    status: os.stat_result


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry that was left out, and why. `path` is printable.

    `is_loss` is False for what no volume can hold (a socket, a device), True for everything else.
    """

    path: str
    reason: str
    is_loss: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextmanager
def opened_dir(path: Path | str, *, dir_fd: int | None = None) -> Iterator[int]:
    """Open a directory for the length of the block and give its descriptor; raises OSError, also for a link."""
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
    """Open a regular file for reading; None when the name is no regular file. Raises OSError.

    A file of ours is opened even if its mode does not let its owner read it.
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
    """Yield every entry below an open directory, parents first; what cannot be read is added to `skipped`.

    `prefix` is put before each path; `depth` counts how many directories are above, up to `MAX_DEPTH`.
    """
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
    """Add the permission bits `needed` to a file or directory that we own while the block runs.

    Does nothing when they are set already, and for root. Raises OSError.
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
    """Remove a directory and everything below it, at any depth and with any modes. Raises OSError.

    Idempotent, and safe while another process removes the same tree.
    """
    with suppress(FileNotFoundError), opened_dir(root) as top:
        while names := _names(top):
            for name in names:
                with suppress(FileNotFoundError):
                    _dissolve(top, name)
        root.rmdir()


def remove_at_once(root: Path, aside: Path) -> None:
    """Remove a tree whose name is gone before any of its files, so that nobody finds a part of it. Raises OSError.

    `aside` is a directory on the same disk, in which a kill may leave the tree. Idempotent.
    """
    place = aside / f"removed-{uuid.uuid4().hex}"
    with suppress(FileNotFoundError):
        root.rename(place)
        remove_tree(place)


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
    """Make a directory of ours readable and writable for us; does nothing for root, who may do both anyway."""
    if os.geteuid() != 0:
        descriptor = os.open(name, _OPEN_PATH, dir_fd=dir_fd)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)  # noqa: PTH101  # reaches this very directory, never a link
        finally:
            os.close(descriptor)

"""Overlay mounts of the kernel, in mounts that only this process and its children see.

Why a mount namespace of the cloud's own: what is mounted there is bound into sandboxes and containers by its path, as
any directory is, and the kernel removes it with the last process of the namespace, also after SIGKILL. The host's table
of mounts never has any of it. An ordinary user's cloud is in a user namespace of its own as well: there it may mount.

Root's mounts have the kernel's `trusted` attributes, which no guest can set or read, and redirect_dir, so that a job
may rename directories of an earlier run. A user namespace has `user` attributes instead, which the kernel keeps apart
from a guest's own, and cannot have redirect_dir: the rename of such a directory fails (EXDEV), as between two disks.
`volatile` is not optional: without it, the end of a mount waits for the whole disk. What is committed is synced by the
store.
"""

import ctypes
import errno
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from workbench.local_cloud.base.errors import failed_precondition
from workbench.local_cloud.base.host_processes import family
from workbench.local_cloud.volumes.open_files import holders, sentence

RENAMES_DIRECTORIES = os.geteuid() == 0  # whether a job can rename a directory that the layers have
_OWN_PREFIX = "trusted.overlay." if RENAMES_DIRECTORIES else "user.overlay."  # the kernel's notes of an overlay
_ESCAPED_PREFIX = _OWN_PREFIX + "overlay."  # what the kernel makes of a guest's attribute of such a name
OPAQUE, REDIRECT = _OWN_PREFIX + "opaque", _OWN_PREFIX + "redirect"
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_MS_NOSUID, _MS_NODEV, _MS_MOVE, _MS_REC, _MS_SLAVE = 0x2, 0x4, 0x2000, 0x4000, 1 << 19
_MNT_DETACH, _MNT_EXPIRE, _UMOUNT_NOFOLLOW = 2, 4, 8
_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442  # the same numbers on every architecture
_OPEN_TREE_CLONE, _MOVE_MOUNT_BENEATH, _F_EMPTY_PATH, _T_EMPTY_PATH = 1, 0x200, 0x4, 0x40
_MOUNT_ATTR_RDONLY, _AT_EMPTY_PATH, _AT_FDCWD = 0x1, 0x1000, -100
_RESOLVE_NO_LINKS = 0x02 | 0x04  # neither magic nor other ones
_SETTINGS = "redirect_dir=on,index=off,metacopy=off,volatile" if RENAMES_DIRECTORIES else "userxattr,volatile"

_T = TypeVar("_T")
_libc = ctypes.CDLL(None, use_errno=True)


def unshare() -> None:
    """Give this process mounts of its own, if it is root; what the host mounts still appears. Raises OSError."""
    _call("unshare", _CLONE_NEWNS)
    _call("mount", None, b"/", None, _MS_REC | _MS_SLAVE, None)


def why_unusable(directory: Path) -> str:
    """Try an overlay below a directory; returns why it does not do what is needed, "" if it does.

    For a process with private mounts.
    """
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix="overlay-probe-") as place:
            return _tried(Path(place))
    except OSError as error:
        return f"the overlay of the kernel cannot be used below {directory} ({error.strerror})"


def _tried(place: Path) -> str:
    """Use an overlay in an empty directory; returns what is not as it should be, "" if all is. Raises OSError."""
    for name in ("lower/d", "lower/r", "upper", "work", "tree"):
        (place / name).mkdir(parents=True)
    (place / "lower/f").write_text("f")
    mount(place, ["lower"], "upper", "work", "tree", lowers_at=place)
    try:
        (place / "tree/f").unlink()
        (place / "tree/r").rmdir()
        (place / "tree/r").mkdir()
        if RENAMES_DIRECTORIES:
            (place / "tree/d").rename(place / "tree/e")
    finally:
        unmount(place / "tree")
    if not is_whiteout((place / "upper/f").lstat()) or os.getxattr(place / "upper/r", OPAQUE) != b"y":
        return "the overlay of the kernel does not note what is removed as expected"
    if RENAMES_DIRECTORIES and os.getxattr(place / "upper/e", REDIRECT) != b"d":
        return "the overlay of the kernel does not note renamed directories as expected"
    return ""


def mount(root: Path, lowers: Sequence[str], upper: str, work: str, target: str, *, lowers_at: Path) -> None:
    """Mount an overlay at `target`; `lowers` has the top layer first, with names relative to `lowers_at`.

    The other names are relative to `root`. None may contain a comma, a colon or a backslash. Raises OSError.
    """
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    below = os.open(lowers_at, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        here = f"/proc/self/fd/{directory}"  # short, whatever the name of `root` is: the kernel cuts long options
        layers = ":".join(f"/proc/self/fd/{below}/{name}" for name in lowers)
        options = f"lowerdir={layers},upperdir={here}/{upper},workdir={here}/{work},{_SETTINGS}".encode()
        if len(options) >= os.sysconf("SC_PAGESIZE"):
            raise OSError(errno.E2BIG, "an overlay has too many layers")
        _call("mount", b"overlay", os.fsencode(root / target), b"overlay", _MS_NOSUID | _MS_NODEV, options)
    finally:
        os.close(below)
        os.close(directory)


def move(source: Path, target: Path) -> None:
    """Move the mount at one path to another. Raises OSError."""
    _call("mount", os.fsencode(source), os.fsencode(target), None, _MS_MOVE, None)


def unmount(target: Path) -> None:
    """Remove the mount at a path, as soon as nobody uses it any more; does nothing when nothing is mounted there."""
    with suppress(FileNotFoundError):
        try:
            _call("umount2", os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):  # who may not unmount has mounted nothing
                raise


def replace_inside(pid: int, path: str, source: Path, *, read_only: bool) -> None:
    """Put the mount at `source` in the place of the one that a container has at `path`; `pid` is its bubblewrap's.

    Raises CloudError FAILED_PRECONDITION, and changes nothing, when a file of the old one is open; else OSError. Does
    nothing when the container has ended. Who has only mapped a file, as a program that runs, keeps what was mapped.
    """
    inside = _inside(pid)
    if inside is None:
        return
    tree = _call("syscall", _OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        if read_only:
            attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
            _call("syscall", _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, ctypes.sizeof(attributes))
        namespace = os.open(f"/proc/{inside}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not _in_thread(lambda: _swap(namespace, path, tree, even_if_busy=False)):
                if found := holders(pid, path):
                    raise failed_precondition(sentence(found))
                _in_thread(lambda: _swap(namespace, path, tree, even_if_busy=True))
        finally:
            os.close(namespace)
    finally:
        os.close(tree)


def _inside(pid: int) -> int | None:
    """Return a process that a bubblewrap has started in mounts of its own; bubblewrap may be in others than ours."""
    outside = set()
    with suppress(OSError):
        outside = {Path(f"/proc/{one}/ns/mnt").readlink() for one in ("self", pid)}
    for process in family(pid):
        with suppress(OSError):
            if Path(f"/proc/{process.pid}/ns/mnt").readlink() not in outside:
                return int(process.pid)
    return None


def _swap(namespace: int, path: str, tree: int, *, even_if_busy: bool) -> bool:
    """Do the work of `replace_inside` in a thread of its own, whose root is that of the other namespace afterwards.

    Returns False, and changes nothing, when anything of the old mount is in use, unless `even_if_busy`.
    """
    _call("unshare", _CLONE_FS)
    _call("setns", namespace, _CLONE_NEWNS)
    above, _, name = path.rstrip("/").rpartition("/")
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE_NO_LINKS)
    parent = _call("syscall", _OPENAT2, _AT_FDCWD, os.fsencode(above or "/"), how, ctypes.sizeof(how))
    try:
        os.fchdir(parent)  # a guest may own directories of the path: from here on there are none but the last
        target = os.fsencode(name)
        if not even_if_busy and _is_busy(target):
            return False
        flags = _F_EMPTY_PATH | _MOVE_MOUNT_BENEATH
        try:
            _call("syscall", _MOVE_MOUNT, tree, b"", _AT_FDCWD, target, flags)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):  # who may not unmount has mounted nothing
                raise
            _call("umount2", target, _MNT_DETACH | _UMOUNT_NOFOLLOW)  # an older kernel: for a moment nothing is there
            _call("syscall", _MOVE_MOUNT, tree, b"", _AT_FDCWD, target, _F_EMPTY_PATH)
        else:
            _call("umount2", target, _MNT_DETACH | _UMOUNT_NOFOLLOW)
    finally:
        os.close(parent)
    return True


def _is_busy(target: bytes) -> bool:
    """Whether anything of a mount is open, by the kernel's own count; nothing is changed by asking."""
    try:
        _call("umount2", target, _MNT_EXPIRE | _UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.EAGAIN:  # idle: only a second call would unmount it
            return False
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry of an upper directory says that the name is removed."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def whiteout(name: str, *, dir_fd: int) -> None:
    """Make an entry that says that the name is removed. Raises OSError."""
    os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=dir_fd)


def attributes(path: str) -> dict[str, bytes]:
    """Return the extended attributes of an entry of an upper directory; no link is followed. Raises OSError."""
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def is_own(attribute: str) -> bool:
    """Whether an extended attribute is a note of the kernel's overlay, which no guest can make."""
    return attribute.startswith(_OWN_PREFIX) and not attribute.startswith(_ESCAPED_PREFIX)


def _in_thread(work: Callable[[], _T]) -> _T:
    """Run work in a thread that ends with it; returns or raises what it does."""
    returned: list[_T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:  # noqa: BLE001  # raised below
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return returned[0]


def _call(name: str, *arguments: object) -> int:
    """Call a function of the C library; raises OSError."""
    wrapped = [ctypes.c_ulong(a) if isinstance(a, int) and a >= 0 else a for a in arguments]
    result: int = getattr(_libc, name)(*wrapped)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

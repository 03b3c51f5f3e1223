"""Mounts layers at a directory of a root file system that is in use, and takes them away again.

The worker's process joins the namespaces of the programs that run there, in which it is root, and starts none of their
programs. What they have written decides no more than which directory is meant: no link is followed on the last way.
"""

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

from workbench.local_cloud.rootfs import launcher
from workbench.local_cloud.rootfs.copying import Tree, owner_of

_OPENAT2 = 437  # the same number on every processor
_NO_MAGIC_LINKS, _NO_LINKS, _IN_ROOT = 0x02, 0x04, 0x10
_TO_EMPTY_PATH = 0x40
_DETACH, _NO_FOLLOW = 2, 8


def join(order: dict[str, Any]) -> None:
    """Become root of the user namespace of the process in `pidfd`, in a mount namespace of its own. Raises OSError."""
    _set(order["pidfd"], launcher.CLONE_NEWUSER)
    os.setresgid(0, 0, 0)
    os.setgroups([])
    os.setresuid(0, 0, 0)
    launcher.call("unshare", launcher.LIBC.unshare(launcher.CLONE_NEWNS))
    launcher.call("mount", launcher.mount(b"none", "/", None, launcher.MS_REC | launcher.MS_PRIVATE, None))


def mount_into(order: dict[str, Any]) -> dict[str, Any]:
    """Mount layers with an upper at `path`, which is made if it is missing. Nothing may be mounted at or below it.

    `taken` are the paths at which something is. With `owner_name` the mounted directory belongs to that user. Returns
    the path without links, and the number of the mounted file system. Raises LaunchError, CopyRefusedError, OSError.
    """
    launcher.merge(order["lower"], order["upper"], order["work"])
    tree = launcher.detach(launcher.MERGED, as_root=True)
    top = os.open(launcher.MERGED, os.O_RDONLY | os.O_DIRECTORY)
    _set(order["pidfd"], launcher.CLONE_NEWNS)
    found = launcher.Places("/").make(order["path"], "directory")
    if found == "/" or found.split("/")[1] == launcher.HIDDEN:
        raise launcher.LaunchError(f"nothing can be mounted at {found}")
    for taken in order["taken"]:
        if f"{found}/".startswith(f"{taken}/") or taken.startswith(f"{found}/"):
            raise launcher.LaunchError(f"{found} is where it leads to, and something is mounted at {taken}")
    if order["owner_name"]:
        os.fchown(top, *owner_of(order["owner_name"], Tree.of(Path("/"), keeps=True)))
    target = _open(found)
    flags = launcher.EMPTY_PATH | _TO_EMPTY_PATH
    launcher.call("move_mount", launcher.LIBC.syscall(launcher.MOVE_MOUNT, tree, b"", target, b"", flags))
    return {"path": found, "device": os.fstat(top).st_dev}


def unmount_from(order: dict[str, Any]) -> dict[str, Any]:
    """Take away what `mount_into` has mounted; programs that use it keep what they have open. Raises as that does."""
    _set(order["pidfd"], launcher.CLONE_NEWNS)
    above, _, name = order["path"].rpartition("/")
    if os.fstat(_open(order["path"])).st_dev != order["device"]:
        raise launcher.LaunchError(f"it is not at {order['path']} any more")
    os.fchdir(_open(above or "/"))
    launcher.call("umount", launcher.LIBC.umount2(os.fsencode(name), _DETACH | _NO_FOLLOW))
    return {}


def _set(pidfd: int, kind: int) -> None:
    launcher.call("setns", launcher.LIBC.setns(pidfd, kind))


def _open(path: str) -> int:
    """Open a directory, without following links, also if it has been replaced by one meanwhile."""
    resolve = _NO_LINKS | _NO_MAGIC_LINKS | _IN_ROOT
    how = struct.pack("QQQ", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, resolve)
    arguments = (launcher.AT_FDCWD, os.fsencode(path), ctypes.c_char_p(how), len(how))
    return launcher.call(f"open {path}", launcher.LIBC.syscall(_OPENAT2, *arguments))

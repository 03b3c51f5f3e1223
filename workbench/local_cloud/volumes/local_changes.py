"""Carries what a job has written and not committed from one upper directory of a mount to the next, on a reload.

Guests wrote what is read here: by descriptors alone, and no link is followed.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress

from workbench.local_cloud.base.errors import failed_precondition
from workbench.local_cloud.base.guest_directories import MAX_DEPTH, Found, open_regular, opened_dir, opened_parent
from workbench.local_cloud.volumes import overlay_mounts
from workbench.local_cloud.volumes.committed import Entry, Removal, parents
from workbench.local_cloud.volumes.layers import View

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def link_tree(old: int, new: int, is_needed: Callable[[Found], bool], *, prefix: str = "", depth: int = 0) -> bool:
    """Link what is needed of one directory, but for whiteouts, into another; returns whether there is any.

    Directories are made anew, with their owners and modes. Raises CloudError FAILED_PRECONDITION if one is too deep.
    """
    kept = False
    for name in os.listdir(old):
        path = prefix + name
        status = os.stat(name, dir_fd=old, follow_symlinks=False)
        item = Found(path, name, old, status)
        if overlay_mounts.is_whiteout(status):
            continue
        if stat.S_ISDIR(status.st_mode):
            if depth >= MAX_DEPTH:
                raise failed_precondition(f"The mount has directories more than {MAX_DEPTH} deep: remove them first.")
            os.mkdir(name, 0o700, dir_fd=new)
            with opened_dir(name, dir_fd=old) as inner, opened_dir(name, dir_fd=new) as made:
                holds_any = link_tree(inner, made, is_needed, prefix=path + "/", depth=depth + 1)
                os.fchown(made, status.st_uid, status.st_gid)
                os.fchmod(made, stat.S_IMODE(status.st_mode))
            if holds_any or is_needed(item):
                kept = True
            else:
                os.rmdir(name, dir_fd=new)
        elif is_needed(item):
            os.link(name, name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
            kept = True
    return kept


def topmost(removed: set[str], view: View) -> list[str]:
    """Return the paths to hide so that those in `removed` are hidden, and nothing else of what a stack shows.

    A directory in which others have put something meanwhile is not hidden as a whole.
    """
    hidden: set[str] = set()
    for path in sorted(removed):
        entry = view.entry(path)
        if entry is None or any(above in hidden for above in parents(path)):
            continue
        if entry.kind != "dir" or all(below.path in removed for below in view.below(path)):
            hidden.add(path)
    return sorted(hidden)


def hide(root: int, path: str) -> None:
    """Make the whiteout that hides a path of the layers. Raises OSError."""
    with opened_parent(root, path) as (directory, name):
        overlay_mounts.whiteout(name, dir_fd=directory)


def repeat(changes: Iterable[Entry | Removal], old: int, shown: int) -> None:
    """Make changes in the directory `shown` that were made in the upper directory `old`, which has the files' bytes.

    A change that something in its way prevents is left out: that was there later.
    """
    removals = [change.path for change in changes if isinstance(change, Removal)]
    for path in sorted(removals, reverse=True):  # a directory after everything below it
        with suppress(OSError), opened_parent(shown, path) as (directory, name):
            _remove(directory, name)
    for entry in sorted((c for c in changes if isinstance(c, Entry)), key=lambda entry: entry.path):
        with suppress(OSError), opened_parent(shown, entry.path) as target, opened_parent(old, entry.path) as source:
            _copy(entry, *source, *target)


def _remove(directory: int, name: str) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)


def _copy(entry: Entry, above: int, same: str, directory: int, name: str) -> None:
    """Copy one entry with its owner and mode, but nothing that is below it."""
    owner = os.stat(same, dir_fd=above, follow_symlinks=False)
    if entry.kind == "dir":
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory)
        with opened_dir(name, dir_fd=directory) as made:
            os.fchown(made, owner.st_uid, owner.st_gid)
            os.fchmod(made, entry.mode)
        return
    if entry.kind == "symlink":
        _remove(directory, name)
        os.symlink(entry.target, name, dir_fd=directory)
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=directory, follow_symlinks=False)
        return
    source = open_regular(same, dir_fd=above)
    if source is not None:
        with os.fdopen(source, "rb") as file:
            _remove(directory, name)
            with os.fdopen(os.open(name, _NEW_FILE, 0o600, dir_fd=directory), "wb") as copy:
                shutil.copyfileobj(file, copy)
                os.fchown(copy.fileno(), owner.st_uid, owner.st_gid)
                os.fchmod(copy.fileno(), entry.mode)


def exists(root: int, path: str) -> bool:
    """Whether there is anything at a path below an open directory."""
    try:
        with opened_parent(root, path) as (directory, name):
            os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True

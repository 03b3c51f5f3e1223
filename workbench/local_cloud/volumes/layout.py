"""Writes a volume's entries into a working copy, at the mount and on reload, while its guest may be using it.

On reload each file is prepared in a scratch directory that the guest cannot reach, and then renamed into place. So a
guest sees a complete file or none, and cannot redirect a write by a link that it puts in the way.
"""

import errno
import os
import stat
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from workbench.local_cloud.base.guest_directories import opened_dir, opened_parent
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.volumes.committed import Entry, parents
from workbench.local_cloud.volumes.scan import Known, identity

_NEW = "new"  # the name in the scratch directory of what is being prepared
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CAUSED_BY_GUESTS = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.EISDIR,
        errno.ELOOP,
        errno.EACCES,
        errno.EPERM,
        errno.ENAMETOOLONG,
    }
)


class Layout:
    """Brings one working copy's directory into the state that a manifest describes."""

    def __init__(self, tree: Path, scratch: Path, owner_uid: int | None, content: ContentStore) -> None:
        """`tree` is the directory that is mounted; its entries get the owner `owner_uid`, unless that is None."""
        self._tree = tree
        self._scratch = scratch
        self._owner = owner_uid
        self._content = content

    def apply(
        self, before: Mapping[str, Known], target: Mapping[str, Entry], *, keep: AbstractSet[str], live: bool
    ) -> dict[str, Known]:
        """Change the directory from the state `before` to `target`, and return the state that it has then.

        The paths of `keep` and the directories above them are left alone. `live` says that a guest may be writing: an
        entry that it prevents from being changed stays as it was in `before`. Files have stamps in the result only if
        not `live`: by the time a guest starts, the file system's clock has ticked.

        Raises OSError for failures that no guest can cause, such as a full disk.
        """
        held = set(keep) | {parent for path in keep for parent in parents(path)}
        known = dict(before)
        placed: list[Entry] = []
        with opened_dir(self._tree) as root, opened_dir(self._scratch) as scratch:
            for path in sorted(before.keys() - target.keys(), reverse=True):
                if path not in held and _remove(root, path):
                    del known[path]
            for path in sorted(target):
                entry, old = target[path], before.get(path)
                if path in held or (old is not None and old.entry.same_as(entry)):
                    continue
                if entry.kind == "dir":
                    done = self._place_dir(root, entry)
                elif live or before:
                    done = self._place(root, scratch, entry)
                else:
                    done = self._place_first(root, entry)
                if done is not None:
                    known[path] = done if not live else Known(entry, None)
                    placed.append(entry)
            for entry in reversed(placed):  # modes of directories come last: they may forbid us to write in them
                if entry.kind == "dir":
                    _set_mode(root, entry)
        return known

    def _place_dir(self, root: int, entry: Entry) -> Known | None:
        try:
            with opened_parent(root, entry.path) as (directory, name):
                _make_way(directory, name, for_directory=True)
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=directory)
                with opened_dir(name, dir_fd=directory) as made:
                    if self._owner is not None:
                        os.fchown(made, self._owner, self._owner)
        except OSError as error:
            _raise_unless_caused_by_guest(error)
            return None
        return Known(entry, None)

    def _place_first(self, root: int, entry: Entry) -> Known:
        """Write straight into an empty directory that no guest uses yet: no scratch, no rename."""
        if entry.kind == "symlink":
            os.symlink(entry.target, entry.path, dir_fd=root)
            if self._owner is not None:
                os.chown(entry.path, self._owner, self._owner, dir_fd=root, follow_symlinks=False)
            return Known(entry, None)
        descriptor = os.open(entry.path, _NEW_FILE, 0o600, dir_fd=root)
        try:
            return self._fill(descriptor, entry)
        finally:
            os.close(descriptor)

    def _fill(self, descriptor: int, entry: Entry) -> Known:
        self._content.copy_into(entry.sha256, descriptor)
        if self._owner is not None:
            os.fchown(descriptor, self._owner, self._owner)
        os.fchmod(descriptor, entry.mode & 0o777)
        os.utime(descriptor, (entry.mtime, entry.mtime))
        return Known(entry, identity(os.fstat(descriptor)))

    def _place(self, root: int, scratch: int, entry: Entry) -> Known | None:
        with suppress(FileNotFoundError):
            os.unlink(_NEW, dir_fd=scratch)
        if entry.kind == "symlink":
            os.symlink(entry.target, _NEW, dir_fd=scratch)
            if self._owner is not None:
                os.chown(_NEW, self._owner, self._owner, dir_fd=scratch, follow_symlinks=False)
            return Known(entry, None) if _rename_into(root, scratch, entry.path) else None
        descriptor = os.open(_NEW, _NEW_FILE, 0o600, dir_fd=scratch)
        try:
            self._fill(descriptor, entry)
            if not _rename_into(root, scratch, entry.path):
                return None
            return Known(entry, identity(os.fstat(descriptor)))  # after the rename, which changes the ctime
        finally:
            os.close(descriptor)


def _rename_into(root: int, scratch: int, path: str) -> bool:
    try:
        with opened_parent(root, path) as (directory, name):
            _make_way(directory, name, for_directory=False)
            os.rename(_NEW, name, src_dir_fd=scratch, dst_dir_fd=directory)
    except OSError as error:
        _raise_unless_caused_by_guest(error)
        return False
    return True


def _make_way(directory: int, name: str, *, for_directory: bool) -> None:
    """Remove an entry of the other kind, which rename and mkdir cannot replace; a directory only if it is empty."""
    try:
        is_directory = stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return
    if is_directory and not for_directory:
        os.rmdir(name, dir_fd=directory)
    elif not is_directory and for_directory:
        os.unlink(name, dir_fd=directory)


def _remove(root: int, path: str) -> bool:
    """Remove one path, a directory only if it is empty; False when the guest prevents it."""
    try:
        with opened_parent(root, path) as (directory, name):
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.rmdir(name, dir_fd=directory)
            else:
                os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        _raise_unless_caused_by_guest(error)
        return False
    return True


def _set_mode(root: int, entry: Entry) -> None:
    try:
        with opened_parent(root, entry.path) as (directory, name), opened_dir(name, dir_fd=directory) as descriptor:
            os.fchmod(descriptor, entry.mode & 0o777)
    except OSError as error:
        _raise_unless_caused_by_guest(error)


def _raise_unless_caused_by_guest(error: OSError) -> None:
    if error.errno not in _CAUSED_BY_GUESTS:
        raise error

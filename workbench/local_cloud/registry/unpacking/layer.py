"""The directory that becomes a layer: each member in its place, by the rules of the image specification and overlayfs.

Of names that come again the last counts. What the archive removes of the layers below becomes a whiteout of the
overlay; what this layer itself has is never hidden by it, whatever the order.
"""

import os
import shutil
import stat
import tarfile

from workbench.local_cloud.registry.unpacking.attributes import Attributes
from workbench.local_cloud.registry.unpacking.below import Below
from workbench.local_cloud.registry.unpacking.files import add_fifo, add_file, add_link
from workbench.local_cloud.registry.unpacking.limits import Limits
from workbench.local_cloud.registry.unpacking.names import (
    DIRECTORY,
    Parts,
    is_whiteout,
    look,
    open_directory,
    parts_of,
)
from workbench.local_cloud.registry.unpacking.refusals import LayerRefusedError, shown

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."  # other notes of a file system of old, which no layer needs
_OPAQUE_ATTRIBUTE = "user.overlay.opaque"
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE)
_MOST_LINKS = 40  # of the layers below on the way to one name, as the kernel has it


class Layer:
    """The layer in the empty directory `root`. Its maker calls `finish` when all is in it, and `close` always."""

    def __init__(self, root: int, below: Below, limits: Limits) -> None:
        self._root = root
        self._below = below
        self._limits = limits
        self._times: dict[bytes, int] = {}  # of directories: set at the end, since their content changes them
        self._names_bytes = 0  # of all names in `_times`
        self._open: tuple[Parts, int] = ((), os.dup(root))  # the directory that was used last
        self._file_bytes = 0
        self._made = 0  # members and implied directories
        self.entries = 0
        self.skipped_devices = 0
        self._describe(root, (), below.attributes(()) or Attributes())

    def close(self) -> None:
        """Close what is open."""
        os.close(self._open[1])

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Put one member in its place. Raises LayerRefusedError, OSError."""
        self.entries += 1
        self._count()
        parts = parts_of(member.name, self._limits, f"The entry {shown(member.name)}")
        if not parts:
            if not member.isdir():
                raise LayerRefusedError(f"The entry {shown(member.name)} is the layer's root and no directory.")
            self._describe(self._root, (), Attributes.of_member(member))
            return
        name = parts[-1]
        if member.type in _DEVICES and not name.startswith(_WHITEOUT):
            self.skipped_devices += 1  # a sandbox brings its own /dev
            return
        place, directory = self._directory(parts[:-1], member.name)
        if name == _OPAQUE:
            os.setxattr(directory, _OPAQUE_ATTRIBUTE, b"y")
        elif name.startswith(_AUFS):
            return
        elif name.startswith(_WHITEOUT):
            _hide(directory, name.removeprefix(_WHITEOUT), member.name)
        elif member.isdir():
            self._add_directory(place, directory, name, Attributes.of_member(member))
        else:
            _clear(directory, name)
            self._add_other(tar, member, directory, name)

    def finish(self) -> None:
        """Set the directories' times."""
        for name, mtime_ns in self._times.items():
            try:
                descriptor = open_directory(self._root, tuple(name.split(b"/")) if name else ())
            except (FileNotFoundError, NotADirectoryError):  # a later member has taken its place
                continue
            try:
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(descriptor)

    def _count(self) -> None:
        self._made += 1
        if self._made > self._limits.entries:
            raise LayerRefusedError(f"The layer has more than {self._limits.entries:,} entries.")

    # -- directories

    def _directory(self, wanted: Parts, named: str) -> tuple[Parts, int]:
        """Return where a member's directory really is, and a descriptor of it that stays ours; make what is missing.

        Behind a link of the layers below, that is where the link leads, within the root: a directory in the link's
        place would hide what is behind it, such as /lib of every merged system.
        """
        if wanted == self._open[0]:
            return self._open
        place: Parts = ()
        descriptor = os.dup(self._root)
        is_hidden = False  # what the layers below have here
        links = 0
        ahead = list(reversed(wanted))
        try:
            while ahead:
                name = ahead.pop()
                target = None
                if not is_hidden and look(name, descriptor) is None:
                    target = self._below.link((*place, name))
                if target is None:
                    inner = self._step(place, descriptor, name, named, is_hidden=is_hidden)
                    place = (*place, name)
                else:
                    links += 1
                    if links > _MOST_LINKS or len(ahead) > self._limits.name:
                        raise LayerRefusedError(f"The entry {shown(named)} lies behind too many links.")
                    ahead.extend(reversed(_resolved(place, target)))
                    inner, place = os.dup(self._root), ()
                os.close(descriptor)
                descriptor = inner
                is_hidden = bool(place) and (is_hidden or _is_opaque(descriptor))
                if len(place) > self._limits.depth:
                    raise LayerRefusedError(f"The entry {shown(named)} is deeper than {self._limits.depth}.")
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._open[1])
        self._open = (place, descriptor)
        return self._open

    def _step(self, directory: Parts, descriptor: int, name: bytes, named: str, *, is_hidden: bool) -> int:
        """Open a directory's directory `name`; make it when the archive has not listed it."""
        found = look(name, descriptor)
        place = (*directory, name)
        if found is None:
            self._count()
            attributes = None if is_hidden else self._below.attributes(place)
            self._make(directory, descriptor, name, attributes or Attributes())
        elif is_whiteout(found):
            self._make(directory, descriptor, name, Attributes())
        elif stat.S_ISLNK(found.st_mode):
            raise LayerRefusedError(f"The entry {shown(named)} lies behind a link of the same layer.")
        elif not stat.S_ISDIR(found.st_mode):
            raise LayerRefusedError(f"The entry {shown(named)} lies in something that is no directory.")
        return os.open(name, DIRECTORY, dir_fd=descriptor)

    def _add_directory(self, directory: Parts, descriptor: int, name: bytes, attributes: Attributes) -> None:
        found = look(name, descriptor)
        if found is None or not stat.S_ISDIR(found.st_mode):
            self._make(directory, descriptor, name, attributes)
            return
        inner = os.open(name, DIRECTORY, dir_fd=descriptor)
        try:
            Attributes.take_extended(inner)
            self._describe(inner, (*directory, name), attributes)
        finally:
            os.close(inner)

    def _make(self, directory: Parts, descriptor: int, name: bytes, attributes: Attributes) -> None:
        """Make a directory where none is. In a whiteout's place it hides what the layers below have there."""
        found = look(name, descriptor)
        _clear(descriptor, name)
        os.mkdir(name, 0o700, dir_fd=descriptor)
        inner = os.open(name, DIRECTORY, dir_fd=descriptor)
        try:
            self._describe(inner, (*directory, name), attributes)
            if found is not None and is_whiteout(found):
                os.setxattr(inner, _OPAQUE_ATTRIBUTE, b"y")
        finally:
            os.close(inner)

    def _describe(self, descriptor: int, place: Parts, attributes: Attributes) -> None:
        """Give a directory its attributes; its time comes at the end."""
        name = b"/".join(place)
        attributes.give(descriptor, os.fsdecode(name or b"."))
        if name not in self._times:
            self._names_bytes += len(name)
            if self._names_bytes > self._limits.directories:
                raise LayerRefusedError("The names of the layer's directories are too long together.")
        self._times[name] = attributes.mtime_ns

    # -- everything else

    def _add_other(self, tar: tarfile.TarFile, member: tarfile.TarInfo, directory: int, name: bytes) -> None:
        """Make a file, a link or a FIFO where nothing is."""
        if member.islnk():
            self._add_hard_link(member, directory, name)
        elif member.issym():
            add_link(member, directory, name)
        elif member.isfifo():
            add_fifo(member, directory, name)
        elif member.isreg():
            self._file_bytes += member.size  # a sparse file takes no more of the archive than its header
            if member.size < 0 or self._file_bytes > self._limits.archive:
                raise LayerRefusedError(f"The layer's files have more than {self._limits.archive:,} bytes.")
            add_file(tar, member, directory, name)
        else:
            raise LayerRefusedError(f"The entry {shown(member.name)} is of a kind that no layer has.")

    def _add_hard_link(self, member: tarfile.TarInfo, directory: int, name: bytes) -> None:
        what = f"The entry {shown(member.name)} is a hard link to {shown(member.linkname)}, which"
        target = parts_of(member.linkname, self._limits, what)
        try:
            if not target:
                raise IsADirectoryError
            source = open_directory(self._root, target[:-1])
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise LayerRefusedError(f"{what} is no file of the layer.") from None
        try:
            found = look(target[-1], source)
            if found is None or stat.S_ISDIR(found.st_mode) or is_whiteout(found):
                raise LayerRefusedError(f"{what} is no file of the layer.")
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)


def _resolved(directory: Parts, target: bytes) -> list[bytes]:
    """Return where a link that stands in a directory leads, from the root on; the root's parent is the root."""
    place = [] if target.startswith(b"/") else list(directory)
    for part in target.split(b"/"):
        if part == b"..":
            del place[-1:]
        elif part not in (b"", b"."):
            place.append(part)
    return place


def _hide(directory: int, name: bytes, named: str) -> None:
    """Hide an entry of the layers below. What this layer itself has of that name stays, before and after."""
    if name in (b"", b".", b".."):
        raise LayerRefusedError(f"The entry {shown(named)} removes nothing that has a name.")
    found = look(name, directory)
    if found is None:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)
    elif stat.S_ISDIR(found.st_mode):
        inner = os.open(name, DIRECTORY, dir_fd=directory)
        try:
            os.setxattr(inner, _OPAQUE_ATTRIBUTE, b"y")
        finally:
            os.close(inner)


def _is_opaque(descriptor: int) -> bool:
    return _OPAQUE_ATTRIBUTE in os.listxattr(descriptor)


def _clear(directory: int, name: bytes) -> None:
    """Make room for an entry where an earlier one of the same name may stand."""
    found = look(name, directory)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        shutil.rmtree(os.fsdecode(name), dir_fd=directory)
    else:
        os.unlink(name, dir_fd=directory)

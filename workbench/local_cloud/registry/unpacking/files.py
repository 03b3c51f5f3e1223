"""Makes what is no directory, where nothing is: files, symbolic links, FIFOs."""

import os
import tarfile
from typing import IO, cast

from workbench.local_cloud.registry.unpacking.attributes import Attributes, ids_of
from workbench.local_cloud.registry.unpacking.members import sense_made
from workbench.local_cloud.registry.unpacking.refusals import LayerRefusedError, shown

_LINK_BYTES = 4096  # of a target and the zero byte at its end
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ZEROS = bytes(64 * 1024)  # as much as is read of a file at once


def add_link(member: tarfile.TarInfo, directory: int, name: bytes) -> None:
    """Make a symbolic link; where it leads does not matter, since nothing here follows it. Raises LayerRefusedError."""
    target = member.linkname.encode("utf-8", "surrogateescape")
    if not target or b"\0" in target or len(target) >= _LINK_BYTES:
        raise LayerRefusedError(f"The link {shown(member.name)} has no target that a link can have.")
    attributes = Attributes.of_member(member)
    os.symlink(target, name, dir_fd=directory)
    with ids_of(member.name):
        os.chown(name, attributes.uid, attributes.gid, dir_fd=directory, follow_symlinks=False)
    os.utime(name, ns=(attributes.mtime_ns, attributes.mtime_ns), dir_fd=directory, follow_symlinks=False)


def add_fifo(member: tarfile.TarInfo, directory: int, name: bytes) -> None:
    """Make a FIFO. Raises LayerRefusedError."""
    attributes = Attributes.of_member(member)
    os.mkfifo(name, 0o600, dir_fd=directory)  # nobody else is in the directory: what was just made is still there
    with ids_of(member.name):
        os.chown(name, attributes.uid, attributes.gid, dir_fd=directory, follow_symlinks=False)
    os.chmod(name, attributes.mode, dir_fd=directory)
    os.utime(name, ns=(attributes.mtime_ns, attributes.mtime_ns), dir_fd=directory)


def add_file(tar: tarfile.TarFile, member: tarfile.TarInfo, directory: int, name: bytes) -> None:
    """Make a file with its content. Raises LayerRefusedError."""
    _check_holes(member)
    attributes = Attributes.of_member(member)
    file = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
    try:
        with sense_made():
            source = tar.extractfile(member)
            assert source is not None
            _copy(source, file, member.size)
        attributes.give(file, member.name)
        os.utime(file, ns=(attributes.mtime_ns, attributes.mtime_ns))
    finally:
        os.close(file)


def _check_holes(member: tarfile.TarInfo) -> None:
    """Refuse a sparse file whose parts with data do not follow one another: tarfile could look for one for ever."""
    end = 0
    for offset, size in cast("list[tuple[int, int]]", member.sparse or []):
        if size == 0 and offset >= 0:
            continue  # what the old format does not need of its table
        if offset < end or size < 0 or offset + size > member.size:
            raise LayerRefusedError(f"The holes of the sparse file {shown(member.name)} make no sense.")
        end = offset + size


def _copy(source: IO[bytes], file: int, size: int) -> None:
    """Write a member's content; what is nothing but zeros becomes a hole, as in sparse files."""
    offset = 0
    while offset < size:
        data = source.read(min(size - offset, len(_ZEROS)))
        if not data:
            raise LayerRefusedError("The layer is damaged: a file is cut off.")
        view = memoryview(data)
        while view and data != _ZEROS[: len(data)]:
            view = view[os.pwrite(file, view, offset + len(data) - len(view)) :]
        offset += len(data)
    os.ftruncate(file, size)

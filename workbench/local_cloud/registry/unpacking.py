"""Unpacks one layer's archive into an empty directory, as a layer of an overlay mounted with `userxattr`.

Runs in a child process that is root of a user namespace, best chrooted into that directory; the archive is hostile.
Every name is opened component by component, by descriptors and without following a link, so that the rules hold without
the chroot, too. Stands alone, on the standard library (and zstandard for layers that need it), because it also runs
as a script, which unpacks into the working directory:
`python unpacking.py --blob FD --diff-id sha256:… --report FD [--below FD]`.

Who starts the child imports this module *before* the chroot and ends the child at its deadline. Nothing is synchronised
to the disk here: the owner of the directory does that before it counts on the layer.
"""

import argparse
import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Any, NoReturn, Protocol, cast

try:
    import zstandard
except ImportError:  # a script without the project's packages can still unpack all other layers
    zstandard = None  # type: ignore[assignment]  # checked where a zstd layer begins

_CHUNK_BYTES = 1 << 20
_TAR_BUFFER_BYTES = 64 * 1024
_ZEROS = bytes(64 * 1024)  # what is read of a file at once
_HEADER_BYTES = 512 * 1024  # of one member, with its long names and extended attributes; tarfile reads them at once
_GLOBAL_HEADERS = 1000  # fields; tarfile keeps them for all that follows
_ZSTD_WINDOW_BYTES = 1 << 27  # what the zstd command itself takes without being asked
_MOST_LINKS = 40  # links of the layers below on the way to one name, as the kernel has it
_LINK_BYTES = 4096  # of a link's target and the zero byte at its end
_NAME_BYTES = 255  # of one component
_SPECIAL_BITS = 0o7777
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."  # other notes of a file system of old, which no layer needs
_OPAQUE_ATTRIBUTE = "user.overlay.opaque"
_ATTRIBUTE = "SCHILY.xattr."
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE)

Parts = tuple[bytes, ...]  # a name below the layer's root, component by component; () is the root


class LayerRefusedError(Exception):
    """The archive is not one that may be unpacked; the message is a sentence that names the member and the reason."""


class UnpackFailedError(Exception):
    """Something on this machine kept the layer from being unpacked, such as a full disk; `code` is the errno, or 0."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Limits:
    """What one layer may be at most. All in bytes unless the name says otherwise."""

    archive: int = 32 << 30  # uncompressed, the headers included
    entries: int = 1_000_000  # members of the archive
    name: int = 4096  # of a whole name, as the kernel has it
    depth: int = 128  # components of a name
    ratio: int = 250  # of uncompressed to compressed; ordinary layers reach 10
    ratio_from: int = 256 << 20  # uncompressed bytes below which the ratio does not matter: files of zeros exist


@dataclass(frozen=True)
class Unpacked:
    """What came of a layer."""

    entries: int
    archive_bytes: int
    skipped_devices: int


def unpack(blob: int, diff_id: str, root: int, *, below: int | None = None, limits: Limits | None = None) -> Unpacked:
    """Unpack the archive in the open file `blob` into the empty directory `root` (a descriptor), and check `diff_id`.

    The compression (gzip, zstd, none) is told from the content. `below` is a descriptor of the merged layers below: a
    directory that the archive does not list is made with the attributes that it has there, and is looked for behind the
    links that stand there. Without it, such directories belong to root and have mode 0755.
    Raises LayerRefusedError for what the archive is, UnpackFailedError for what this machine cannot do. In both cases
    the directory is left half full: remove it.
    """
    limits = limits or Limits()
    try:
        with _complaints(), closing(_Layer(root, below, limits)) as layer:
            stream = _Stream(blob, limits)
            _read_members(stream, layer, limits)
            stream.finish(diff_id)
            layer.set_times()
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else "an input or output error"
        raise UnpackFailedError(f"The layer could not be unpacked: {what}.", error.errno or 0) from error
    return Unpacked(layer.entries, stream.position, layer.skipped_devices)


def unpack_in_child(
    blob: int, diff_id: str, *, report: int, below: int | None = None, limits: Limits | None = None
) -> NoReturn:
    """Unpack into the working directory, write a report for `read_report` to a descriptor, and end this process.

    From here on this process imports nothing: below the chroot, Python's modules would be those of the layer.
    """
    sys.meta_path[:] = [_NoImports]
    code = 1
    try:
        root = os.open(".", _DIRECTORY)
        answer: dict[str, Any] = {"unpacked": asdict(unpack(blob, diff_id, root, below=below, limits=limits))}
        code = 0
    except LayerRefusedError as error:
        answer = {"refused": str(error)}
    except UnpackFailedError as error:
        answer = {"failed": str(error), "code": error.code}
    except BaseException as error:  # noqa: BLE001 - the process ends here, and its owner must learn of everything
        answer = {"failed": f"The layer could not be unpacked ({type(error).__name__}).", "code": 0}
    try:
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(report, data) :]
    finally:
        os._exit(code)


class _NoImports:
    """Finds no module. (Without any finder, Python warns of that, whose text it would have to import.)"""

    @staticmethod
    def find_spec(fullname: str, path: object, target: object = None) -> None:
        raise ImportError(f"{fullname} is not imported below the chroot of a layer")


def read_report(data: bytes) -> Unpacked:
    """Return what `unpack_in_child` has told. Raises its LayerRefusedError or UnpackFailedError.

    A report that is cut off or missing means that the child was killed, which is an UnpackFailedError as well.
    """
    try:
        answer = json.loads(data)
        if "refused" in answer:
            raise LayerRefusedError(str(answer["refused"]))
        if "failed" in answer:
            raise UnpackFailedError(str(answer["failed"]), int(answer["code"]))
        return Unpacked(**answer["unpacked"])
    except (ValueError, KeyError, TypeError):
        raise UnpackFailedError("The process that unpacked the layer ended before it was done.") from None


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Stream:
    """The uncompressed archive as tarfile reads it: counted, hashed, and held to its limits."""

    def __init__(self, blob: int, limits: Limits) -> None:
        os.lseek(blob, 0, os.SEEK_SET)
        self._raw = _Counted(open(blob, "rb", buffering=0, closefd=False))  # noqa: SIM115 - a descriptor
        self._source = _decompressed(self._raw)
        self._digest = hashlib.sha256()
        self._limits = limits
        self.position = 0
        self._header_end: int | None = None

    def read(self, size: int) -> bytes:
        """Return the next bytes of the archive, at most `size`. Raises LayerRefusedError beyond a limit."""
        if self._header_end is not None and self.position > self._header_end:
            raise LayerRefusedError(f"A member's header is longer than {_HEADER_BYTES:,} bytes.")
        data = self._source.read(size)
        self._digest.update(data)
        self.position += len(data)
        if self.position > self._limits.archive:
            raise LayerRefusedError(f"The layer has more than {self._limits.archive:,} bytes when it is unpacked.")
        if self.position > max(self._limits.ratio_from, self._limits.ratio * self._raw.position):
            raise LayerRefusedError(
                f"The layer is compressed to less than a {self._limits.ratio}th of its size, as no real one is."
            )
        return data

    @contextmanager
    def header(self) -> Iterator[None]:
        """Within the block, only as much is read as one member's header may have."""
        self._header_end = self.position + _HEADER_BYTES
        try:
            yield
        finally:
            self._header_end = None

    def finish(self, diff_id: str) -> None:
        """Read what follows the archive's end, and compare the digest of it all with `diff_id`."""
        while self.read(_CHUNK_BYTES):
            pass
        found = f"sha256:{self._digest.hexdigest()}"
        if found != diff_id:
            raise LayerRefusedError(f"The unpacked layer's digest is {found}; the image says {diff_id[:100]}.")


class _Counted(io.RawIOBase):
    """A file that knows how much of it has been read, and may be looked into at its beginning."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self.position = 0
        self.start = self._file.read(4) or b""
        self._file.seek(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self._file.readinto(buffer) or 0)
        self.position += count
        return count


def _decompressed(raw: _Counted) -> _Source:
    """Return a reader of the archive in `raw`; several members of gzip or frames of zstd follow one another."""
    if raw.start[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=io.BufferedReader(raw, _TAR_BUFFER_BYTES), mode="rb")
    number = int.from_bytes(raw.start, "little")
    if number == 0xFD2FB528 or number & 0xFFFFFFF0 == 0x184D2A50:
        if zstandard is None:
            raise UnpackFailedError("The layer is compressed with zstd: install the Python package zstandard.")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        return decompressor.stream_reader(cast("IO[bytes]", raw), read_across_frames=True)
    return io.BufferedReader(raw, _TAR_BUFFER_BYTES)


@contextmanager
def _complaints() -> Iterator[None]:
    """Turn what readers of archives and of compressed streams raise into LayerRefusedError."""
    damaged: tuple[type[Exception], ...] = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
    if zstandard is not None:
        damaged = (*damaged, zstandard.ZstdError)
    try:
        yield
    except damaged as error:
        raise LayerRefusedError(f"The layer is damaged: {_plain(str(error))}.") from error


class _Member(tarfile.TarInfo):
    """A member whose broken header is an error wherever it stands; tarfile takes it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not buf or (len(buf) == tarfile.BLOCKSIZE and not any(buf)):
                raise  # the end, with or without its block of zeros
            raise LayerRefusedError(f"The layer is damaged: {_plain(str(error))}.") from error


def _read_members(stream: _Stream, layer: "_Layer", limits: Limits) -> None:
    """Put every member of the archive into the layer."""
    with _strange_headers(), stream.header():
        archive = tarfile.open(  # noqa: SIM115 - it owns nothing
            fileobj=cast("IO[bytes]", stream),
            mode="r|",
            bufsize=_TAR_BUFFER_BYTES,
            encoding="utf-8",
            errors="surrogateescape",
            tarinfo=_Member,
        )
    while True:
        with _strange_headers(), stream.header():
            member = archive.next()
        if member is None:
            return
        archive.members = []  # type: ignore[attr-defined]  # undocumented; it would keep them all
        if len(archive.pax_headers) > _GLOBAL_HEADERS:
            raise LayerRefusedError("The layer's global headers are too many.")
        layer.entries += 1
        if layer.entries > limits.entries:
            raise LayerRefusedError(f"The layer has more than {limits.entries:,} entries.")
        layer.add(archive, member)


@contextmanager
def _strange_headers() -> Iterator[None]:
    """Turn what tarfile raises of headers that nobody writes into LayerRefusedError."""
    try:
        yield
    except (ValueError, ArithmeticError, LookupError, RecursionError, AttributeError, TypeError) as error:
        raise LayerRefusedError("The layer is damaged: a member's header makes no sense.") from error


@dataclass
class _Attributes:
    """Owner, mode, time of change in ns and extended attributes of an entry."""

    uid: int = 0
    gid: int = 0
    mode: int = 0o755
    mtime_ns: int = 0
    extended: dict[str, bytes] = field(default_factory=dict)


class _Layer:
    """The directory that is filled, by descriptors alone. Its maker calls `close`."""

    def __init__(self, root: int, below: int | None, limits: Limits) -> None:
        self._root = root
        self._below = below
        self._limits = limits
        self._opaque: set[Parts] = set()  # directories whose content below does not show
        self._times: dict[Parts, int] = {}  # of directories: set at the end, since their content changes them
        self._open: tuple[Parts, int] = ((), os.dup(root))  # the directory that was used last
        self._file_bytes = 0
        self.entries = 0
        self.skipped_devices = 0
        self._describe(root, (), self._attributes_below(()) or _Attributes())

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Put one member in its place. Raises LayerRefusedError, OSError."""
        parts = _parts(member.name, self._limits, f"The entry {_shown(member.name)}")
        if not parts:
            if not member.isdir():
                raise LayerRefusedError(f"The entry {_shown(member.name)} is the layer's root and no directory.")
            self._describe(self._root, (), _attributes(member))
            return
        self._look_out_for_overlong(parts, member.name)
        name = parts[-1]
        if member.type in _DEVICES and not name.startswith(_WHITEOUT):
            self.skipped_devices += 1  # a sandbox brings its own /dev
            return
        directory, descriptor = self._directory(parts[:-1], member.name)
        if name == _OPAQUE:
            self._hide_all(directory, descriptor)
        elif name.startswith(_AUFS):
            return
        elif name.startswith(_WHITEOUT):
            self._hide(directory, descriptor, name.removeprefix(_WHITEOUT), member.name)
        elif member.isdir():
            self._add_directory(directory, descriptor, name, _attributes(member))
        else:
            self._clear(directory, descriptor, name)
            self._add_other(archive, member, descriptor, name)

    def close(self) -> None:
        """Close what is open, once."""
        os.close(self._open[1])

    def set_times(self) -> None:
        """Set the directories' times, after everything else."""
        for parts, mtime_ns in self._times.items():
            try:
                descriptor = _open_below(self._root, parts)
            except (FileNotFoundError, NotADirectoryError):  # a later member has taken its place
                continue
            try:
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(descriptor)

    @staticmethod
    def _look_out_for_overlong(parts: Parts, name: str) -> None:
        if any(len(part) > _NAME_BYTES for part in parts):
            raise LayerRefusedError(f"The entry {_shown(name)} has a component of more than {_NAME_BYTES} bytes.")

    # -- directories

    def _directory(self, wanted: Parts, named: str) -> tuple[Parts, int]:
        """Return where a member's directory really is, and a descriptor of it that stays ours; make what is missing."""
        if wanted == self._open[0]:
            return self._open
        done: list[bytes] = []
        descriptor = os.dup(self._root)
        links = 0
        ahead = list(reversed(wanted))
        try:
            while ahead:
                name = ahead.pop()
                if name == b"..":  # of a link below; the root's parent is the root
                    del done[-1:]
                    descriptor = self._instead_of(descriptor, tuple(done))
                    continue
                place = (*done, name)
                target = self._link_below(place) if _look(name, descriptor) is None else None
                if target is not None:
                    links += 1
                    if links > _MOST_LINKS:
                        raise LayerRefusedError(f"The entry {_shown(named)} lies behind too many links.")
                    ahead.extend(part for part in reversed(target.split(b"/")) if part not in (b"", b"."))
                    if target.startswith(b"/"):
                        done.clear()
                        descriptor = self._instead_of(descriptor, ())
                    continue
                inner = self._step(tuple(done), descriptor, name, named)
                os.close(descriptor)
                descriptor = inner
                done.append(name)
                if len(done) > self._limits.depth:
                    raise LayerRefusedError(f"The entry {_shown(named)} is deeper than {self._limits.depth}.")
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._open[1])
        self._open = (tuple(done), descriptor)
        return self._open

    def _instead_of(self, descriptor: int, place: Parts) -> int:
        """Open another directory of the layer in the place of one that is open."""
        other = _open_below(self._root, place)
        os.close(descriptor)
        return other

    def _step(self, directory: Parts, descriptor: int, name: bytes, named: str) -> int:
        """Open a directory's directory `name`; make it when the archive has not listed it."""
        found = _look(name, descriptor)
        place = (*directory, name)
        if found is None:
            self._make(directory, descriptor, name, self._attributes_below(place) or _Attributes())
        elif _is_whiteout(found):
            self._make(directory, descriptor, name, _Attributes())
        elif stat.S_ISLNK(found.st_mode):
            raise LayerRefusedError(f"The entry {_shown(named)} lies behind a link of the same layer.")
        elif not stat.S_ISDIR(found.st_mode):
            raise LayerRefusedError(f"The entry {_shown(named)} lies in something that is no directory.")
        return os.open(name, _DIRECTORY, dir_fd=descriptor)

    def _add_directory(self, directory: Parts, descriptor: int, name: bytes, attributes: _Attributes) -> None:
        found = _look(name, descriptor)
        if found is not None and stat.S_ISDIR(found.st_mode):
            inner = os.open(name, _DIRECTORY, dir_fd=descriptor)
            try:
                self._describe(inner, (*directory, name), attributes)
            finally:
                os.close(inner)
            return
        self._make(directory, descriptor, name, attributes)

    def _make(self, directory: Parts, descriptor: int, name: bytes, attributes: _Attributes) -> None:
        """Make a directory where none is. In a whiteout's place it hides what the layers below have there."""
        found = _look(name, descriptor)
        if found is not None:
            self._clear(directory, descriptor, name)
        place = (*directory, name)
        os.mkdir(name, 0o700, dir_fd=descriptor)
        inner = os.open(name, _DIRECTORY, dir_fd=descriptor)
        try:
            self._describe(inner, place, attributes)
            if found is not None and _is_whiteout(found):
                self._hide_all(place, inner)
        finally:
            os.close(inner)

    def _describe(self, descriptor: int, place: Parts, attributes: _Attributes) -> None:
        """Give a directory its attributes; its time comes at the end."""
        for old in os.listxattr(descriptor):
            if old.startswith("user.") and old != _OPAQUE_ATTRIBUTE:
                os.removexattr(descriptor, old)
        _set(descriptor, attributes, place)
        self._times[place] = attributes.mtime_ns

    # -- what the layers below have

    def _attributes_below(self, place: Parts) -> _Attributes | None:
        """Return the attributes that a directory has in the layers below, None where there is none."""
        if self._below is None or self._is_hidden(place):
            return None
        try:
            descriptor = _open_below(self._below, place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            found = os.fstat(descriptor)
            extended = {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor) if _is_kept(name)}
        finally:
            os.close(descriptor)
        return _Attributes(found.st_uid, found.st_gid, found.st_mode & _SPECIAL_BITS, found.st_mtime_ns, extended)

    def _link_below(self, place: Parts) -> bytes | None:
        """Return a link's target in the layers below, None where there is no link."""
        if self._below is None or self._is_hidden(place):
            return None
        try:
            descriptor = _open_below(self._below, place[:-1])
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            found = _look(place[-1], descriptor)
            if found is None or not stat.S_ISLNK(found.st_mode):
                return None
            return os.readlink(place[-1], dir_fd=descriptor)
        finally:
            os.close(descriptor)

    def _is_hidden(self, place: Parts) -> bool:
        return bool(self._opaque) and any(place[:length] in self._opaque for length in range(len(place)))

    def _hide_all(self, directory: Parts, descriptor: int) -> None:
        os.setxattr(descriptor, _OPAQUE_ATTRIBUTE, b"y")
        self._opaque.add(directory)

    def _hide(self, directory: Parts, descriptor: int, name: bytes, named: str) -> None:
        """Hide an entry of the layers below. What this layer itself has of that name stays, before and after."""
        if name in (b"", b".", b".."):
            raise LayerRefusedError(f"The entry {_shown(named)} removes nothing that has a name.")
        found = _look(name, descriptor)
        if found is None:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=descriptor)
        elif stat.S_ISDIR(found.st_mode):
            inner = os.open(name, _DIRECTORY, dir_fd=descriptor)
            try:
                self._hide_all((*directory, name), inner)
            finally:
                os.close(inner)

    # -- everything else

    def _clear(self, directory: Parts, descriptor: int, name: bytes) -> None:
        """Make room for an entry where an earlier one of the same name stands."""
        found = _look(name, descriptor)
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=descriptor)
            return
        shutil.rmtree(os.fsdecode(name), dir_fd=descriptor)
        self._opaque = {place for place in self._opaque if place[: len(directory) + 1] != (*directory, name)}

    def _add_other(self, archive: tarfile.TarFile, member: tarfile.TarInfo, descriptor: int, name: bytes) -> None:
        """Make a file, a link or a FIFO where nothing is."""
        if member.islnk():
            self._add_hard_link(member, descriptor, name)
        elif member.issym():
            _add_link(member, descriptor, name)
        elif member.isfifo():
            _add_fifo(member, descriptor, name)
        elif member.isreg():
            self._account_for(member)
            _add_file(archive, member, descriptor, name)
        else:
            raise LayerRefusedError(f"The entry {_shown(member.name)} is of a kind that no layer has.")

    def _account_for(self, member: tarfile.TarInfo) -> None:
        """Refuse files that are too long together: a sparse one takes no more of the archive than its header."""
        if member.size < 0:
            raise LayerRefusedError(f"The file {_shown(member.name)} has a negative size.")
        self._file_bytes += member.size
        if self._file_bytes > self._limits.archive:
            raise LayerRefusedError(f"The layer's files have more than {self._limits.archive:,} bytes.")

    def _add_hard_link(self, member: tarfile.TarInfo, descriptor: int, name: bytes) -> None:
        what = f"The entry {_shown(member.name)} is a hard link to {_shown(member.linkname)}, which"
        target = _parts(member.linkname, self._limits, what)
        try:
            if not target:
                raise IsADirectoryError
            source = _open_below(self._root, target[:-1])
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise LayerRefusedError(f"{what} is no file of the layer.") from None
        try:
            found = _look(target[-1], source)
            if found is None or stat.S_ISDIR(found.st_mode) or _is_whiteout(found):
                raise LayerRefusedError(f"{what} is no file of the layer.")
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=descriptor, follow_symlinks=False)
        finally:
            os.close(source)


def _add_link(member: tarfile.TarInfo, descriptor: int, name: bytes) -> None:
    target = member.linkname.encode("utf-8", "surrogateescape")
    if not target or b"\0" in target or len(target) >= _LINK_BYTES:
        raise LayerRefusedError(f"The link {_shown(member.name)} has no target that a link can have.")
    attributes = _attributes(member)
    os.symlink(target, name, dir_fd=descriptor)
    with _ids_of(member.name):
        os.chown(name, attributes.uid, attributes.gid, dir_fd=descriptor, follow_symlinks=False)
    times = (attributes.mtime_ns, attributes.mtime_ns)
    os.utime(name, ns=times, dir_fd=descriptor, follow_symlinks=False)


def _add_fifo(member: tarfile.TarInfo, descriptor: int, name: bytes) -> None:
    attributes = _attributes(member)
    os.mkfifo(name, 0o600, dir_fd=descriptor)  # nobody else is in the directory: what was just made is still there
    with _ids_of(member.name):
        os.chown(name, attributes.uid, attributes.gid, dir_fd=descriptor, follow_symlinks=False)
    os.chmod(name, attributes.mode, dir_fd=descriptor)
    os.utime(name, ns=(attributes.mtime_ns, attributes.mtime_ns), dir_fd=descriptor)


def _add_file(archive: tarfile.TarFile, member: tarfile.TarInfo, descriptor: int, name: bytes) -> None:
    _check_holes(member)
    attributes = _attributes(member)
    file = os.open(name, _NEW_FILE, 0o600, dir_fd=descriptor)
    try:
        with _strange_headers():
            source = archive.extractfile(member)
        assert source is not None
        _copy(source, file, member.size)
        _set(file, attributes, (name,))
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
            raise LayerRefusedError(f"The holes of the sparse file {_shown(member.name)} make no sense.")
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


def _attributes(member: tarfile.TarInfo) -> _Attributes:
    """What the archive says of an entry. Raises LayerRefusedError."""
    for number in (member.uid, member.gid):
        if not 0 <= number < 2**32 - 1:
            raise LayerRefusedError(f"The entry {_shown(member.name)} belongs to {number}, which is no user or group.")
    extended = {}
    for key, value in member.pax_headers.items():
        name = key.removeprefix(_ATTRIBUTE)
        if key.startswith(_ATTRIBUTE) and _is_kept(name):
            if not name.removeprefix("user.") or "\0" in name or len(name.encode("utf-8", "surrogateescape")) > 255:
                raise LayerRefusedError(f"The entry {_shown(member.name)} has an attribute without a proper name.")
            extended[name] = value.encode("utf-8", "surrogateescape")
    return _Attributes(member.uid, member.gid, member.mode & _SPECIAL_BITS, _nanoseconds(member.mtime), extended)


def _nanoseconds(seconds: float) -> int:
    """A time of change in ns; 0 for one that no file can have."""
    try:
        whole = int(seconds)
        return whole * 10**9 + int((seconds - whole) * 10**9) if 0 <= whole < 2**33 else 0
    except (ValueError, OverflowError):  # not a number, or infinite
        return 0


def _is_kept(name: str) -> bool:
    """Whether an extended attribute comes into a layer: `trusted.*` and the overlay's own marks must not."""
    return name == "security.capability" or (name.startswith("user.") and not name.startswith("user.overlay."))


def _set(descriptor: int, attributes: _Attributes, place: Parts) -> None:
    """Give an open entry its owner, then its mode, which a change of owner takes from, then its attributes."""
    named = os.fsdecode(b"/".join(place) or b".")
    with _ids_of(named):
        os.fchown(descriptor, attributes.uid, attributes.gid)
    os.fchmod(descriptor, attributes.mode)
    for name, value in attributes.extended.items():
        try:
            os.setxattr(descriptor, name, value)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.ERANGE, errno.E2BIG):
                raise
            raise LayerRefusedError(
                f"The entry {_shown(named)} has an extended attribute {_shown(name)} that cannot be set."
            ) from error


@contextmanager
def _ids_of(named: str) -> Iterator[None]:
    """Tell of an owner whom the namespace does not have in a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise LayerRefusedError(
            f"The entry {_shown(named)} belongs to a user or group beyond those that sandboxes have (0 to 65535)."
        ) from error


def _parts(name: str, limits: Limits, what: str) -> Parts:
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
    return parts


def _open_below(directory: int, parts: Parts) -> int:
    """Open a directory below another one; raises FileNotFoundError, NotADirectoryError (also for a link)."""
    descriptor = os.dup(directory)
    for part in parts:
        try:
            inner = os.open(part, _DIRECTORY, dir_fd=descriptor)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
            raise
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def _look(name: bytes, directory: int) -> os.stat_result | None:
    """What stands under a name, without following it; None for nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _shown(name: str) -> str:
    """A name of the archive for a message: short, without anything that a terminal would obey."""
    return f"'{_plain(name[:200])}{'…' if len(name) > 200 else ''}'"


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def main() -> NoReturn:
    """Unpack as a script; the descriptors come from the parent."""
    parser = argparse.ArgumentParser(description="Unpack a layer into the working directory.")
    parser.add_argument("--blob", type=int, required=True)
    parser.add_argument("--diff-id", required=True)
    parser.add_argument("--report", type=int, required=True)
    parser.add_argument("--below", type=int)
    given = parser.parse_args()
    unpack_in_child(given.blob, given.diff_id, report=given.report, below=given.below)


if __name__ == "__main__":
    main()

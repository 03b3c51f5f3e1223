"""COPY and ADD into a merged root, by Docker's rules for sources, destinations, owners and modes.

Both the source and the destination are trees of their own, whose links are followed as inside. A source is the build
context, or the files of another image or stage, which keep their owners, modes and links.
"""

import bz2
import fnmatch
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import zstandard

from workbench.local_cloud.registry import unpacking
from workbench.local_cloud.rootfs.launcher import Places
from workbench.local_cloud.rootfs.modes import applied

_CHUNK_BYTES = 1 << 20
_MAGIC = re.compile(r"[*?\[]")
_OVERLAY = "user.overlay."  # notes of the file system itself, on layers that are read directly
_COMPRESSED: tuple[tuple[bytes, Callable[[IO[bytes]], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.open(file)),  # noqa: SIM115  # its caller closes it
    (b"BZh", lambda file: bz2.open(file)),  # noqa: SIM115
    (b"\xfd7zXZ\0", lambda file: lzma.open(file)),  # noqa: SIM115
    (b"\x28\xb5\x2f\xfd", lambda file: zstandard.ZstdDecompressor().stream_reader(file)),
)


class CopyRefusedError(Exception):
    """A COPY cannot be carried out; the message says why and what to do."""


@dataclass(frozen=True)
class Tree:
    """A tree in which names are looked up without leaving it. With `keeps`, copies have its owners and modes."""

    root: Path
    places: Places
    keeps: bool

    @classmethod
    def of(cls, root: Path, *, keeps: bool) -> "Tree":
        """Open a tree by its directory."""
        return cls(root, Places(f"{root}/."), keeps)  # a descriptor below /proc is a link

    def path(self, inside: str) -> Path:
        """Return the path of something inside, whose own path there must have no links."""
        return self.root / inside.lstrip("/")

    def is_directory(self, inside: PurePosixPath) -> bool:
        """Whether there is a directory at a path, or a link to one."""
        found = self.places.find(str(inside))
        return found is not None and self.path(found).is_dir()

    def matches(self, pattern: str) -> list[str]:
        """Return the paths that match a COPY's source, links in them followed; in each directory in order.

        Raises CopyRefusedError.
        """
        found = ["/"]
        for part in pattern.split("/"):
            if part == "..":
                raise CopyRefusedError(f"'{pattern[:200]}' has '..' in it: a source must be in the build context.")
            if part not in ("", "."):
                found = [real for directory in found for real in self._entries(directory, part)]
        return found

    def _entries(self, directory: str, pattern: str) -> Iterator[str]:
        here = self.path(directory)
        if not here.is_dir():
            return
        names = [pattern]
        if not os.path.lexists(here / pattern):
            is_pattern = _MAGIC.search(pattern) is not None
            listed = [path.name for path in here.iterdir()] if is_pattern else []
            names = sorted(name for name in listed if fnmatch.fnmatchcase(name, pattern))
        for name in names:
            real = self.places.find(f"{directory}/{name}")
            if real is not None and os.path.lexists(self.path(real)):
                yield real


def copy_files(source: Tree, target: Tree, step: dict[str, Any]) -> int:
    """Carry out one COPY or ADD and return how many files it copied.

    `step` has `sources`, `destination` (absolute), `into` (whether that is a directory in any case), `mode` (see
    `modes`; empty keeps the files' own), `owner` (`user[:group]`, empty for the default), `excluded` (patterns below a
    source) and `unpack` (whether archives are unpacked). Raises CopyRefusedError, LaunchError, LayerRefusedError,
    UnpackFailedError, and OSError.
    """
    owner = owner_of(step["owner"], target) if step["owner"] else None
    copy = _Copy(target, owner, step["mode"], _excluding(step["excluded"]), keeps=source.keeps)
    destination = PurePosixPath(step["destination"])
    for pattern in step["sources"]:
        found = source.matches(pattern)
        if not found:
            where = "the image or stage" if source.keeps else "the build context"
            raise CopyRefusedError(f"COPY: '{pattern}' is not in {where}. Add it, or correct the path.")
        for real in found:
            path = source.path(real)
            if path.is_dir():
                copy.tree(path, destination)
            elif step["unpack"] and (archive := _archive(path)) is not None:
                copy.archive(path, archive, destination)
            else:
                into = step["into"] or len(found) > 1 or target.is_directory(destination)
                name = PurePosixPath(pattern).name if len(found) == 1 and not _MAGIC.search(pattern) else path.name
                copy.file(path, destination / name if into else destination)
    return copy.count


class _Copy:
    """Lays files into a target, one COPY's."""

    def __init__(
        self,
        target: Tree,
        owner: tuple[int, int] | None,
        mode: str,
        excludes: Callable[[str], bool],
        *,
        keeps: bool,
    ) -> None:
        self.count = 0
        self._target = target
        self._owner = owner
        self._mode = mode
        self._excludes = excludes
        self._keeps = keeps
        self._directories: dict[str, Path] = {}

    def tree(self, source: Path, destination: PurePosixPath) -> None:
        """Copy what is in a directory into another one."""
        self._directory(destination)
        for path in _below(source):
            inside = path.relative_to(source).as_posix()
            if self._excludes(inside):
                continue
            if path.is_dir() and not path.is_symlink():
                self._directory(destination / inside, like=path)
            else:
                self.file(path, destination / inside)

    def archive(self, path: Path, opened: Callable[[IO[bytes]], Any], destination: PurePosixPath) -> None:
        """Unpack an archive, with its owners and modes, and copy what is in it into a directory."""
        with (
            tempfile.TemporaryFile(dir=self._target.root) as plain,
            tempfile.TemporaryDirectory(dir=self._target.root, prefix=".unpack-") as scratch,
        ):
            digest = _decompress(path, opened, plain)
            Path(scratch).chmod(0o755)  # the destination gets it
            root = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
            try:
                unpacking.unpack(plain.fileno(), f"sha256:{digest}", root)
            finally:
                os.close(root)
            keeps, self._keeps = self._keeps, True
            self.tree(Path(scratch), destination)
            self._keeps = keeps

    def file(self, source: Path, target: PurePosixPath) -> None:
        """Copy one file or link to a path; what is no file, directory or link is left out."""
        status = source.lstat()
        place = self._directory(target.parent) / target.name
        if place.is_dir() and not place.is_symlink():
            raise CopyRefusedError(f"COPY: {target} cannot be a file and a directory at once.")
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            return
        place.unlink(missing_ok=True)
        if stat.S_ISLNK(status.st_mode):
            place.symlink_to(source.readlink())
        else:
            shutil.copyfile(source, place, follow_symlinks=False)
        self._describe(source, place, status)
        self.count += 1

    def _directory(self, wanted: PurePosixPath, like: Path | None = None) -> Path:
        """Return a directory of the target; missing ones are made, the last one `like` another, the rest our own."""
        known = self._directories.get(str(wanted))
        if known is not None:
            return known
        missing = []
        for path in (wanted, *wanted.parents):
            if self._target.places.find(str(path)) is not None:
                break
            missing.append(path)
        made = self._target.path(self._target.places.make(str(wanted), "directory"))
        for path in missing:
            real = self._target.places.find(str(path))
            if real is not None and path == wanted and like is not None:
                self._describe(like, self._target.path(real), like.lstat())
            elif real is not None and self._owner is not None:
                os.chown(self._target.path(real), *self._owner)
        self._directories[str(wanted)] = made
        return made

    def _describe(self, source: Path, place: Path, status: os.stat_result) -> None:
        """Give a copy its owner, mode, attributes and time."""
        own = (status.st_uid, status.st_gid) if self._keeps else (0, 0)
        os.chown(place, *(self._owner or own), follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISREG(status.st_mode) and not self._keeps:
            mode = mode & 0o755 | 0o444
        place.chmod(applied(self._mode, mode, is_directory=stat.S_ISDIR(status.st_mode)) if self._mode else mode)
        if self._keeps:
            for name in os.listxattr(source, follow_symlinks=False):
                if not name.startswith(_OVERLAY):
                    with suppress(OSError):  # the file system of the target may not have them
                        os.setxattr(place, name, os.getxattr(source, name, follow_symlinks=False))
        if stat.S_ISREG(status.st_mode):
            os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _below(source: Path) -> Iterator[Path]:
    for directory, directories, names in os.walk(source):
        directories.sort()
        for name in sorted([*directories, *names]):
            yield Path(directory, name)


def _excluding(patterns: list[str]) -> Callable[[str], bool]:
    """Return what tells whether a path below a source is left out."""
    if not patterns:
        return lambda inside: False
    found = []
    for pattern in patterns:
        text = re.escape(pattern.strip("/")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*")
        found.append(text.replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))
    return lambda inside: re.fullmatch(rf"(?:{'|'.join(found)})(?:/.*)?", inside) is not None


def _archive(path: Path) -> Callable[[IO[bytes]], Any] | None:
    """Return what opens a file that is an archive, by its content; None for every other file."""
    with path.open("rb") as file:
        first = file.read(8)
        opened = next((opened for magic, opened in _COMPRESSED if first.startswith(magic)), None)
        file.seek(0)
        try:
            head = (opened(file) if opened is not None else file).read(512)
        except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError):
            return None
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None
    return opened or (lambda file: file)


def _decompress(path: Path, opened: Callable[[IO[bytes]], Any], plain: IO[bytes]) -> str:
    """Write an archive's plain form, and return its sha256. Raises CopyRefusedError for what becomes too large."""
    limits = unpacking.Limits()
    most = min(limits.archive, max(limits.ratio_from, limits.ratio * path.stat().st_size))
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file, io.BufferedReader(opened(file)) as source:
            while chunk := source.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > most:
                    raise CopyRefusedError(
                        f"ADD: {path.name} has more than {most} bytes when it is unpacked, as no ordinary archive has."
                    )
                digest.update(chunk)
                plain.write(chunk)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zstandard.ZstdError) as error:
        raise CopyRefusedError(f"ADD: {path.name} cannot be unpacked: {str(error)[:200]}.") from None
    plain.flush()
    plain.seek(0)
    return digest.hexdigest()


def owner_of(text: str, tree: Tree) -> tuple[int, int]:
    """Return the ids of `user[:group]`, looked up in an image's own files. Raises CopyRefusedError."""
    if not text:
        return 0, 0
    user, _, group = text.partition(":")
    uid, own_group = _lookup(user, tree, "/etc/passwd", "user", group_field=3)
    gid = _lookup(group, tree, "/etc/group", "group")[0] if group else own_group
    return uid, gid


def _lookup(name: str, tree: Tree, path: str, what: str, group_field: int | None = None) -> tuple[int, int]:
    real = tree.places.find(path)
    found = tree.path(real) if real is not None else None
    rows = found.read_text(errors="replace").splitlines() if found is not None and found.is_file() else []
    for row in (line.split(":") for line in rows):
        if len(row) >= 4 - (group_field is None) and name in (row[0], row[2]) and row[2].isdigit():
            return int(row[2]), int(row[group_field]) if group_field is not None else 0
    if name.isdigit() and int(name) < 65_536:
        return int(name), int(name)
    raise CopyRefusedError(f"The image has no {what} '{name[:100]}': make it first, for example with RUN useradd.")

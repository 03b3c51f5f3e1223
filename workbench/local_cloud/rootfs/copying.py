"""COPY and ADD into a merged root, by Docker's rules for sources, destinations, owners and modes.

The destination's links are followed as inside. The context's files come from the host, its links are copied as links.
"""

import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.local_cloud.rootfs.launcher import Places

_ARCHIVE = re.compile(r"\.(tar|tar\.\w+|tgz|tbz2?|txz)$")


class CopyRefusedError(Exception):
    """A COPY cannot be carried out; the message says why and what to do."""


def copy_files(context: Path, places: Places, merged: Path, step: dict[str, Any]) -> int:
    """Carry out one COPY or ADD and return how many files it copied.

    `step` has `sources`, `destination` (absolute), `into` (whether that is a directory in any case), `mode` (None keeps
    the files' own), `owner` (`user[:group]`, empty for root) and `unpack` (whether archives are unpacked). Raises
    CopyRefusedError, LaunchError, OSError.
    """
    owner = owner_of(step["owner"], merged)
    count = 0
    for source in step["sources"]:
        found = _matches(context, source)
        if not found:
            raise CopyRefusedError(f"COPY: '{source}' is not in the build context. Add it, or correct the path.")
        for path in found:
            destination = PurePosixPath(step["destination"])
            if step["unpack"] and path.is_file() and _ARCHIVE.search(path.name):
                with tempfile.TemporaryDirectory(dir=merged, prefix=".unpack-") as scratch:
                    _unpack(path, scratch)
                    count += _lay_tree(Path(scratch), destination, places, merged, step["mode"], owner)
            elif path.is_dir() and not path.is_symlink():
                count += _lay_tree(path, destination, places, merged, step["mode"], owner)
            else:
                into = step["into"] or len(found) > 1 or _is_directory(places, merged, destination)
                target = destination / path.name if into else destination
                _lay(path, target, places, merged, step["mode"], owner)
                count += 1
    return count


def _matches(context: Path, source: str) -> list[Path]:
    relative = source.lstrip("/").removeprefix("./").rstrip("/")
    if relative in ("", "."):
        return [context]
    if ".." in PurePosixPath(relative).parts:
        raise CopyRefusedError(f"'{source[:200]}' has '..' in it: a source must be in the build context.")
    if os.path.lexists(context / relative):
        return [context / relative]
    return sorted(context.glob(relative))


def _is_directory(places: Places, merged: Path, destination: PurePosixPath) -> bool:
    found = places.find(str(destination))
    return found is not None and (merged / found.lstrip("/")).is_dir()


def _lay_tree(
    source: Path,
    destination: PurePosixPath,
    places: Places,
    merged: Path,
    mode: int | None,
    owner: tuple[int, int],
) -> int:
    count = 0
    top = merged / places.make(str(destination), "directory").lstrip("/")
    os.chown(top, *owner) if owner != (0, 0) else None
    for path in _below(source):
        target = destination / path.relative_to(source).as_posix()
        if path.is_dir() and not path.is_symlink():
            made = merged / places.make(str(target), "directory").lstrip("/")
            os.chown(made, *owner)
            made.chmod(mode if mode is not None else stat.S_IMODE(path.stat().st_mode) | 0o700)
        else:
            _lay(path, target, places, merged, mode, owner)
            count += 1
    return count


def _below(source: Path) -> Iterator[Path]:
    for directory, directories, names in os.walk(source):
        directories.sort()
        for name in sorted([*directories, *names]):
            yield Path(directory, name)


def _lay(
    source: Path, target: PurePosixPath, places: Places, merged: Path, mode: int | None, owner: tuple[int, int]
) -> None:
    parent = places.make(str(target.parent), "directory")
    place = merged / parent.lstrip("/") / target.name
    if place.is_dir() and not place.is_symlink():
        raise CopyRefusedError(f"COPY: {target} cannot be a file and a directory at once.")
    place.unlink(missing_ok=True)
    if source.is_symlink():
        place.symlink_to(source.readlink())
        os.chown(place, *owner, follow_symlinks=False)
        return
    if not source.is_file():
        return
    shutil.copyfile(source, place)
    os.chown(place, *owner)
    status = source.stat()
    place.chmod(mode if mode is not None else stat.S_IMODE(status.st_mode) & 0o755 | 0o444)
    os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _unpack(archive: Path, scratch: str) -> None:
    try:
        with tarfile.open(archive) as file:
            file.extractall(scratch, filter="data")  # refuses names and links that lead out
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CopyRefusedError(f"ADD: {archive.name} cannot be unpacked: {str(error)[:200]}.") from None


def owner_of(text: str, merged: Path) -> tuple[int, int]:
    """Return the ids of `user[:group]`, looked up in the image's own files. Raises CopyRefusedError."""
    if not text:
        return 0, 0
    user, _, group = text.partition(":")
    uid, own_group = _lookup(user, merged / "etc/passwd", "user", group_field=3)
    gid = _lookup(group, merged / "etc/group", "group")[0] if group else own_group
    return uid, gid


def _lookup(name: str, path: Path, what: str, group_field: int | None = None) -> tuple[int, int]:
    rows = path.read_text(errors="replace").splitlines() if path.is_file() and not path.is_symlink() else []
    for row in (line.split(":") for line in rows):
        if len(row) >= 4 - (group_field is None) and name in (row[0], row[2]) and row[2].isdigit():
            return int(row[2]), int(row[group_field]) if group_field is not None else 0
    if name.isdigit() and int(name) < 65_536:
        return int(name), int(name)
    raise CopyRefusedError(f"The image has no {what} '{name[:100]}': make it first, for example with RUN useradd.")

"""State that cannot be used: damaged files are moved aside and named, never removed; a full disk is called that."""

import errno
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from workbench.errors import WorkbenchError

DATABASE = "cloud.sqlite"
_BESIDE_THE_DATABASE = ("cloud.sqlite-wal", "cloud.sqlite-shm")
DURABLE = (DATABASE, *_BESIDE_THE_DATABASE, "content", "images")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LITTLE_BYTES = 1024 * 1024  # SQLite calls a full disk an I/O error at times
_MEBIBYTE = 1024 * 1024


class StateError(WorkbenchError):
    """The state directory cannot be used; the message says why, and what to do."""


class DamagedStateError(StateError):
    """Something in the state directory is not what was written there."""


class DiskFullError(StateError):
    """The disk that holds the state has no room."""


def set_aside(root: Path, names: Iterable[str], why: str) -> DamagedStateError:
    """Move damaged files of a state directory into one of their own there; returns the error that names it."""
    place = root / f"damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    place.mkdir(mode=0o700)
    moved = [name for name in names if (root / name).exists()]
    for name in moved:
        (root / name).rename(place / name)
    return DamagedStateError(
        f"the state in {root} is damaged ({why}). Nothing was removed: {', '.join(moved)} is in {place} now. Put a "
        "copy of it in its place, or start again to begin anew"
    )


def check(root: Path) -> None:
    """Raise DamagedStateError, with everything moved aside, where the database is empty or gone and its files are not.

    A cloud that began anew there would seem to have lost all that it kept.
    """
    database = root / DATABASE
    if database.exists():
        if database.stat().st_size == 0:
            raise set_aside(root, DURABLE, f"{DATABASE} is empty")
        return
    left = [name for name in _BESIDE_THE_DATABASE if (root / name).exists()]
    if left or any(path.is_file() for name in ("content", "images") for path in (root / name).rglob("*")):
        raise set_aside(root, DURABLE, f"{DATABASE} is gone")


def told(root: Path, error: BaseException) -> StateError:
    """What a failure means for the state; a damaged database is moved aside."""
    for cause in _causes(error):
        if is_disk_full(cause, root):
            return disk_full(root)
        if is_damage(cause):
            return set_aside(root, DURABLE, f"{DATABASE}: {cause}")
    return error if isinstance(error, StateError) else StateError(f"the state in {root} cannot be used: {error}")


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says that its file is none, or none any more."""
    code = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, sqlite3.DatabaseError) and code & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def is_disk_full(error: BaseException, root: Path | None = None) -> bool:
    """Whether an error is that of a disk without room; `root` is on it, where that is known."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF if isinstance(error, sqlite3.Error) else 0
    if code == sqlite3.SQLITE_IOERR and root is not None:
        return shutil.disk_usage(root).free < _LITTLE_BYTES
    return code == sqlite3.SQLITE_FULL


def disk_full(root: Path) -> DiskFullError:
    """The error that says how full it is."""
    free = shutil.disk_usage(root).free / _MEBIBYTE
    return DiskFullError(
        f"the disk that holds {root} is full ({free:.1f} MiB free): make room there, nothing of the state is lost"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

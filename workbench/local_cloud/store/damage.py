"""What to do about a state directory that cannot be used.

Damaged files are moved aside and named in the error, never removed. A full disk is told apart from damage.
"""

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
_LITTLE_BYTES = 1024 * 1024  # below so much free space, an I/O error of SQLite means a full disk
_MEBIBYTE = 1024 * 1024


class StateError(WorkbenchError):
    """The state directory cannot be used; the message says why, and what to do."""


class DamagedStateError(StateError):
    """A file of the state directory does not hold what was written to it."""


class DiskFullError(StateError):
    """The disk that holds the state is full."""


def set_aside(root: Path, names: Iterable[str], why: str) -> DamagedStateError:
    """Move the files `names` of a state directory into a new `damaged-…` directory in it.

    Returns the error that says so; `why` is its cause in a few words.
    """
    place = root / f"damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    place.mkdir(mode=0o700)
    moved = [name for name in names if (root / name).exists()]
    for name in moved:
        (root / name).rename(place / name)
    return DamagedStateError(
        f"the state in {root} is damaged ({why}). Nothing was removed: {', '.join(moved)} is in {place} now. Put a "
        f"good copy of it back into {root}, or start the cloud again with an empty state"
    )


def check(root: Path) -> None:
    """Raise DamagedStateError when the database is empty, or missing while other files of the state are there.

    Everything is moved aside first. A cloud that made a new database instead would seem to have lost all its data.
    """
    database = root / DATABASE
    if database.exists():
        if database.stat().st_size == 0:
            raise set_aside(root, DURABLE, f"{DATABASE} is empty")
        return
    left = [name for name in _BESIDE_THE_DATABASE if (root / name).exists()]
    if left or any(path.is_file() for name in ("content", "images") for path in (root / name).rglob("*")):
        raise set_aside(root, DURABLE, f"{DATABASE} is gone")


def as_state_error(root: Path, error: BaseException) -> StateError:
    """Return the StateError that explains a failure; a damaged database is moved aside."""
    for cause in _causes(error):
        if is_disk_full(cause, root):
            return disk_full(root)
        if is_damage(cause):
            return set_aside(root, DURABLE, f"{DATABASE}: {cause}")
    return error if isinstance(error, StateError) else StateError(f"the state in {root} cannot be used: {error}")


def is_damage(error: BaseException) -> bool:
    """Whether an error is SQLite's for a file that is damaged or no database."""
    code = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, sqlite3.DatabaseError) and code & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def is_disk_full(error: BaseException, root: Path | None = None) -> bool:
    """Whether an error means a full disk. `root` is a directory on that disk, where one is known.

    With it, SQLite's I/O errors count, too: it reports some full disks in that way.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF if isinstance(error, sqlite3.Error) else 0
    if code == sqlite3.SQLITE_IOERR and root is not None:
        return shutil.disk_usage(root).free < _LITTLE_BYTES
    return code == sqlite3.SQLITE_FULL


def disk_full(root: Path) -> DiskFullError:
    """Return the error that says how much is free on the disk that holds `root`."""
    free = shutil.disk_usage(root).free / _MEBIBYTE
    return DiskFullError(
        f"the disk that holds {root} is full ({free:.1f} MiB free): make room there, nothing of the state is lost"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

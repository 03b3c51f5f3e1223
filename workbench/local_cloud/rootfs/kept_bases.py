"""Bases of this machine's system, kept for all clouds of one user: each is copied once for a machine.

They are in the user's cache. A cloud uses them where they are, for what does not outlive it, and has them locked until
it ends, so that nobody removes them under it.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import platformdirs

from workbench.local_cloud.rootfs.ids import ids
from workbench.local_cloud.rootfs.layers import LAYERS, Layers, Root, files_below, remove_layers

_NAME, _LOCK = "bases", "lock"
_ASK_AGAIN_S = 0.05
_WAIT_S = 120.0  # for another process, which copies some thousand files
_held: dict[Path, int] = {}  # the bases that this process uses, with the descriptors of their locks
Make = Callable[[Layers, Root], Awaitable[None]]  # fills the upper of a root in a store


def directory() -> Path:
    """Return where bases are kept; it need not exist."""
    return platformdirs.user_cache_path("modal-workbench") / _NAME


def problem() -> str:
    """Return why no bases can be kept, empty if they can or could be."""
    for path in (directory().parent, directory()):
        try:
            found = path.lstat()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{path}: {error.strerror}"
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return f"{path} must be a directory that you alone can write to. Run: rm -r {path}"
    return ""


def kept() -> list[Path]:
    """Return the bases that are kept."""
    layers = directory() / LAYERS
    return sorted(layers.iterdir()) if not problem() and layers.is_dir() else []


async def held(key: str, make: Make) -> Path | None:
    """Return the path of a base, which is made if it is missing and stays until this process ends.

    None where none can be kept. Raises what `make` raises, LayerError, OSError.
    """
    name = f"{key}-{hashlib.sha256(json.dumps([ids().uid, ids().gid]).encode()).hexdigest()[:8]}"
    path = directory() / LAYERS / name
    if path in _held and path.is_dir():
        return path
    try:
        async with _locked() as cache:
            if cache is None:
                return None
            _hold(path)
            await cache.once(name, lambda root: make(cache, root))
    except TimeoutError:  # who keeps them busy may have stopped
        return None
    return path


def can_link(kept: Path, root: Root) -> bool:
    """Whether the files of a base can have links in the upper of a root, which is on the same disk then."""
    target = root.written.parent / _LOCK
    try:
        os.link(_lock_of(kept), target)
        target.unlink()
    except OSError:
        return False
    return True


def prune(*, before: float) -> tuple[int, int]:
    """Remove the bases that no process uses or has begun to use since a time (Unix seconds).

    Returns how many, and their bytes. Raises LayerError, NoRangeError, OSError.
    """
    removed = size = 0
    if problem() or not (directory() / _LOCK).is_file():
        return 0, 0
    with _file(directory() / _LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in kept():
            with _file(_lock_of(path)) as own:
                try:
                    fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if os.fstat(own).st_mtime >= before:
                    continue
                size += sum(status.st_size for status in files_below(path))
                remove_layers(directory(), [path])
                _lock_of(path).unlink()
                removed += 1
    return removed, size


def _hold(path: Path) -> None:
    """Keep a base from being removed until this process ends; to be called with the store locked."""
    if path not in _held:
        descriptor = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.utime(descriptor)
        _held[path] = descriptor


def _lock_of(path: Path) -> Path:
    return directory() / f"{path.name}.{_LOCK}"


@asynccontextmanager
async def _locked() -> AsyncIterator[Layers | None]:
    """Give the store of bases to this process alone while the block runs; None where it cannot be used."""
    where = directory()
    if problem():
        yield None
        return
    try:
        where.mkdir(mode=0o711, parents=True, exist_ok=True)
        cache = Layers(where)
        descriptor = os.open(where / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:  # a disk that is full or cannot be written to
        yield None
        return
    try:
        await _wait_for(descriptor)
        await cache.reap()
        yield cache
    finally:
        os.close(descriptor)


@contextmanager
def _file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def _wait_for(descriptor: int) -> None:
    end = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError from None
            await asyncio.sleep(_ASK_AGAIN_S)
        else:
            return

"""Commits a sandbox's workspace and reads some of it back through the volume's API, which sees what is committed.

The newest files that the run has written are compared, by their beginnings. One that changes meanwhile, because the job
has left something running, is tried again and then left out.
"""

import asyncio
import hashlib
import heapq
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import modal
import structlog

from modal_app.platform_errors import PLATFORM_ERRORS

_log = structlog.get_logger(__name__)

_WORKSPACE = "/workspace"
_SAMPLES = 4
_HEAD_BYTES = 64 * 1024
_ATTEMPTS = 4
_PAUSE_S = 0.2
# One command, because each costs a round of calls. `find` ends with 1 when it could not look everywhere.
_COMMIT = f"sync {_WORKSPACE} || exit 2; exec find . -type f -newerct \"$1\" -printf '%C@ %P\\0'"
_COMMITTED = (0, 1)
_HEADS = f'for file; do head -c {_HEAD_BYTES} -- "$file" | sha256sum; done'

RunCommand = Callable[[Sequence[str]], Awaitable[tuple[int, bytes]]]


@dataclass(frozen=True)
class Found:
    """How many files the run has written, and how many of them were found outside as they are inside."""

    changed: int
    compared: int


class ReadBack:
    """For one project: `root` is its directory in the volume."""

    def __init__(self, volume: modal.Volume, root: str) -> None:
        self._volume = volume
        self._root = root

    async def commit(self, run: RunCommand, *, since: str) -> Found | None:
        """Commit with `run`, which runs a command in the sandbox; `since` is when the job began, by its clock.

        Returns None when the commit is not confirmed, or not there.
        """
        missing: dict[bytes, str] = {}
        for attempt in range(_ATTEMPTS):
            await asyncio.sleep(_PAUSE_S * attempt)
            code, printed = await run(["sh", "-c", _COMMIT, "sh", f"@{since}"])
            if code not in _COMMITTED:
                return None
            changed, newest = _newest(printed)
            inside = await self._inside(run, newest)
            outside = await asyncio.gather(*(self._outside(path) for path in inside))
            before = missing
            missing = {
                path: digest for (path, digest), seen in zip(inside.items(), outside, strict=True) if digest != seen
            }
            if not missing:
                return Found(changed, len(inside))
        if any(before.get(path) == digest for path, digest in missing.items()):  # it has not changed meanwhile
            _log.error("commit.not_there", root=self._root, files=len(missing))
            return None
        return Found(changed, len(inside) - len(missing))

    async def _inside(self, run: RunCommand, paths: list[bytes]) -> dict[bytes, str]:
        if not paths:
            return {}
        _, printed = await run(["sh", "-c", _HEADS, "sh", *(path.decode() for path in paths)])
        digests = [line.split()[0].decode() for line in printed.splitlines() if line.strip()]
        return dict(zip(paths, digests, strict=False))

    async def _outside(self, path: bytes) -> str:
        """The digest of a committed file's beginning; "" when there is none."""
        digest = hashlib.sha256()
        left = _HEAD_BYTES
        try:
            async with aclosing(self._volume.read_file.aio(f"{self._root}/{path.decode()}")) as pieces:
                async for piece in pieces:
                    digest.update(piece[:left])
                    left -= len(piece[:left])
                    if not left:
                        break
        except PLATFORM_ERRORS:
            return ""
        return digest.hexdigest()


def _newest(printed: bytes) -> tuple[int, list[bytes]]:
    """How many files there are, and the paths of the newest."""
    files = []
    count = 0
    for entry in printed.split(b"\0"):
        changed_at, _, path = entry.partition(b" ")
        if path:
            count += 1
        if path and _is_text(path) and len(path) < 1024:
            files.append((float(changed_at), path))
    return count, [path for _, path in heapq.nlargest(_SAMPLES, files)]


def _is_text(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True

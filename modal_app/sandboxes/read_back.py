"""Commits a sandbox's workspace and checks some of its files through the volume's API, which sees only commits.

The four newest files that the run has written are compared by their first 64 KiB. A file that differs is tried again,
up to four times; one that keeps changing, because the job has left a program running, is then left out.
"""

import asyncio
import hashlib
import heapq
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import modal
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modal_app.sandboxes.guest_text import one_line
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS

_log = structlog.get_logger(__name__)

_WORKSPACE = "/workspace"
_SAMPLES = 4
_HEAD_BYTES = 64 * 1024
_ATTEMPTS = 4
_PAUSE_S = 0.2
_SAID_BYTES = 2000
_LISTED = 200  # the newest, which fit into what is kept of a command's output
# One command, because each costs a round of calls. `find` exits with 1 when it could not read every directory. After
# the newest files comes the count of all.
_COMMIT = f"""
said=$(sync {_WORKSPACE} 2>&1); synced=$?
[ -z "$said" ] || printf '%s' "$said" | head -c {_SAID_BYTES} | tr '\\n' ' '
printf '\\0'
exec 4>&1
found=$({{
  {{ find . -type f -newerct "$1" -printf '%C@ %P\\0'; echo "$?" >&3; }} |
    LC_ALL=C sort -znr | sed -zn '1,{_LISTED}p;$=' >&4
}} 3>&1)
[ "$synced" = 0 ] || exit 2
exit "$found"
"""
_COMMITTED = (0, 1)
_NOT_SYNCED = 2
# A file's digest, of its beginning; its size instead when the job's user cannot read the file.
_FACTS = f"""
for file; do
  if [ -r "$file" ]; then head -c {_HEAD_BYTES} -- "$file" | sha256sum
  else stat -c 'size:%s' -- "$file" || echo gone
  fi
done
"""
_DEEPEST = 100  # directories: a volume holds nothing that lies deeper
_SIZE = "size:"
_FIND_UNCOMMITTABLE = (Path(__file__).parent / "guest" / "uncommittable.py").read_text(encoding="utf-8")

RunCommand = Callable[[Sequence[str]], Awaitable[tuple[int, bytes]]]


class Blamed(BaseModel):
    """The files of the job that no volume can hold: how many, and the first five as (path, reason)."""

    model_config = ConfigDict(strict=True, frozen=True)

    count: int = Field(0, ge=0)
    first: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """A list of the paths with their reasons, escaped and bounded, to be put into a sentence."""
        named = ", ".join(f"{one_line(path)} ({one_line(reason)})" for path, reason in self.first)
        more = self.count - len(self.first)
        return named + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Found:
    """What a commit has come to.

    `changed` counts the files that the run has written, `looked_at` those of them that were checked, `compared` those
    that were the same when read from outside. `failure` says why the commit failed, empty when it did not; `blamed`
    names the job's files that caused the failure.
    """

    changed: int
    compared: int
    looked_at: int
    failure: str = ""
    blamed: Blamed = field(default_factory=Blamed)


class ReadBack:
    """Commits and checks one project, whose directory in the volume is `root`."""

    def __init__(self, volume: modal.Volume, root: str) -> None:
        self._volume = volume
        self._root = root

    async def commit(self, run: RunCommand, *, since: str) -> Found:
        """Commit the workspace. A commit that is refused, or confirmed but not readable, gives a Found with `failure`.

        `run` runs a command in the sandbox and returns its exit code and output. `since` is the Unix time, in seconds
        by the sandbox's clock, from which on changed files are the run's own.
        """
        missing: dict[bytes, str] = {}
        for attempt in range(_ATTEMPTS):
            await asyncio.sleep(_PAUSE_S * attempt)
            code, printed = await run(["sh", "-c", _COMMIT, "sh", f"@{since}"])
            said, changed, newest = _parse_listing(printed)
            if code == _NOT_SYNCED:
                return await self._explained(run, said, changed, newest)
            if code not in _COMMITTED:
                return Found(changed, 0, 0, f"what was written could not be listed (exit code {code})")
            inside, differing = await self._compared(run, newest)
            before, missing = missing, differing
            if not missing:
                return Found(changed, len(inside), len(inside))
        compared = len(inside) - len(missing)
        if any(before.get(path) == facts for path, facts in missing.items()):  # it has not changed meanwhile
            _log.error("commit.not_there", root=self._root, files=len(missing))
            names = ", ".join(one_line(path.decode()) for path in missing)
            return Found(changed, compared, len(inside), f"it was confirmed, but {names} cannot be read back the same")
        return Found(changed, compared, compared)

    async def _explained(self, run: RunCommand, said: str, changed: int, newest: list[bytes]) -> Found:
        """The Found for a refused commit: why it was refused, and which of the newest files are committed anyway."""
        code, printed = await run(["python3", "-I", "-c", _FIND_UNCOMMITTABLE, _WORKSPACE])
        try:
            blamed = Blamed.model_validate_json(printed)
        except ValidationError:
            blamed = Blamed()
        _log.error("commit.refused", root=self._root, said=said, blamed=blamed.count, look=code)
        names = {path.encode() for path, _ in blamed.first}
        rest = [path for path in newest if path not in names and path.count(b"/") < _DEEPEST]
        inside, differing = await self._compared(run, rest)
        failure = str(blamed) if blamed.count else (said or "the platform did not say why")
        return Found(changed, len(inside) - len(differing), len(inside), failure, blamed)

    async def _compared(self, run: RunCommand, paths: list[bytes]) -> tuple[dict[bytes, str], dict[bytes, str]]:
        """The facts of files by path, as seen in the sandbox, and those of them that differ outside."""
        inside = await self._inside(run, paths)
        outside = await asyncio.gather(*(self._outside(path, facts) for path, facts in inside.items()))
        pairs = zip(inside.items(), outside, strict=True)
        return inside, {path: facts for (path, facts), seen in pairs if facts != seen}

    async def _inside(self, run: RunCommand, paths: list[bytes]) -> dict[bytes, str]:
        if not paths:
            return {}
        _, printed = await run(["sh", "-c", _FACTS, "sh", *(path.decode() for path in paths)])
        facts = [line.split()[0].decode() for line in printed.splitlines() if line.strip()]
        return dict(zip(paths, facts, strict=False))

    async def _outside(self, path: bytes, inside: str) -> str:
        """The same fact of the committed file, its digest or its size; "" when it does not exist."""
        name = f"{self._root}/{path.decode()}"
        try:
            if inside.startswith(_SIZE):
                return "".join(f"{_SIZE}{entry.size}" for entry in await self._volume.listdir.aio(name))
            return await self._digest(name)
        except PLATFORM_ERRORS:
            return ""

    async def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        left = _HEAD_BYTES
        async with aclosing(self._volume.read_file.aio(name)) as pieces:
            async for piece in pieces:
                digest.update(piece[:left])
                left -= len(piece[:left])
                if not left:
                    break
        return digest.hexdigest()


def _parse_listing(printed: bytes) -> tuple[str, int, list[bytes]]:
    """Parse what `_COMMIT` printed: what `sync` said, how many files have changed, and the paths of the newest."""
    said, _, listed = printed.partition(b"\0")
    files = []
    count = 0
    for entry in listed.split(b"\0"):
        changed_at, is_file, path = entry.partition(b" ")
        if not is_file:
            count = int(changed_at or count)
        elif _is_text(path) and len(path) < 1024:
            files.append((float(changed_at), path))
    newest = [path for _, path in heapq.nlargest(_SAMPLES, files)]
    return one_line(said.decode(errors="replace").strip()), count, newest


def _is_text(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True

"""The archive: each ended run's events and proof, on a volume, in `/{day}/{run_id}/` by the day of its acceptance.

It also holds the request, and for a job of the Claude CLI the exchanges with the model, so that it can be replayed.
Archives are written through the mount and committed explicitly; they are read through the volume's API, which sees only
what is committed.
"""

import asyncio
import datetime as dt
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import modal
import structlog
from modal.types import FileEntry, FileEntryType

from modal_app.contract.proof import Bundle
from modal_app.contract.requests import Request, dump_request, without_secrets
from modal_app.model.traffic import Traffic, of_run
from modal_app.model_gateway.recording import dump_exchanges
from modal_app.runs.batches import Batch
from modal_app.runs.event_spool import Spool
from modal_app.runs.shared_state import ARCHIVE, SharedState
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS

_log = structlog.get_logger(__name__)

EVENTS = "events.sse"
BUNDLE = "run.json"
REQUEST = "request.json"  # without secrets
TRAFFIC = "model.jsonl"  # of a job of action `claude`: its exchanges with the model, one JSON object a line
_COMMIT_S = 60.0


class ArchiveFailedError(Exception):
    """The archive could not be written or committed; a later attempt may succeed."""


def day_of(run_id: str) -> str:
    """The UTC day (YYYY-MM-DD) on which a run was accepted, taken from its id; "unknown" if the id holds no time."""
    milliseconds = uuid.UUID(run_id).int >> 80
    try:
        return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return "unknown"


def directory(run_id: str) -> str:
    """The absolute path of a run's archive in the volume."""
    return f"/{day_of(run_id)}/{run_id}"


class Archive:
    """Writes, reads, lists and removes the archives of runs. `root` is where this container has mounted the volume."""

    def __init__(self, state: SharedState, *, root: Path = ARCHIVE) -> None:
        self._volume = state.archive
        self._traffic = Traffic(state.traffic)
        self._root = root
        self._committing: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def write(self, spool: Spool, bundle: Bundle, request: Request | None = None) -> None:
        """Write a run's archive and return when other containers can read it. Raises ArchiveFailedError.

        `request` is None when the writer is not the run's owner, who alone knows it: `request.json` is then missing.
        """
        target = self._root / directory(bundle.run_id).lstrip("/")
        try:
            await asyncio.to_thread(_make_empty, target)
            with (target / EVENTS).open("wb") as file:
                async for piece in spool.read():
                    await asyncio.to_thread(file.write, piece)
            if request is not None:
                (target / REQUEST).write_bytes(dump_request(without_secrets(request)))
            if bundle.action == "claude":
                await self._write_traffic(target, bundle.run_id)
            (target / BUNDLE).write_text(bundle.model_dump_json(indent=1, exclude_none=True), encoding="utf-8")
            await self._commit()
            await self._read_back(bundle)
        except PLATFORM_ERRORS as error:
            raise ArchiveFailedError(f"{type(error).__name__}: {error}"[:300]) from error

    async def settle(self, bundle: Bundle) -> None:
        """Let go of what an archive was written from, once the record says that the run is archived.

        Not before: whoever finds the record without that word writes the archive again.
        """
        if bundle.action == "claude":
            await self._traffic.clear(of_run(bundle.run_id))

    async def _write_traffic(self, target: Path, run_id: str) -> None:
        with (target / TRAFFIC).open("wb") as file:
            for exchange in await self._traffic.read(of_run(run_id)):
                await asyncio.to_thread(file.write, dump_exchanges([exchange]))

    async def _read_back(self, bundle: Bundle) -> None:
        """Check through the volume's API that the commit can be read. Raises ArchiveFailedError, platform errors."""
        sizes = {entry.path.rpartition("/")[2]: entry.size for entry in await self._entries(directory(bundle.run_id))}
        if sizes.get(EVENTS) != bundle.events.bytes or await self.bundle(bundle.run_id) != bundle:
            raise ArchiveFailedError("the archive's commit was acknowledged, but its files do not read back the same")

    async def read(self, run_id: str, spool: Spool) -> None:
        """Fill a spool from a run's archive. Raises platform errors, of which NotFoundError means: no archive."""
        held = bytearray()
        last = 0
        bundle = await self.bundle(run_id)
        async for piece in self._volume.read_file.aio(f"{directory(run_id)}/{EVENTS}"):
            held += piece
            if (end := held.rfind(b"\n\n") + 2) > 1:
                batch = _batch_after(bytes(held[:end]), last, bundle.events.last_seq)
                del held[:end]
                last = batch.last
                spool.append(batch)

    async def bundle(self, run_id: str) -> Bundle:
        """A run's proof, from its archive. Raises platform errors, of which NotFoundError means: no archive."""
        data = bytearray()
        try:
            async for piece in self._volume.read_file.aio(f"{directory(run_id)}/{BUNDLE}"):
                data += piece
        except FileNotFoundError as error:  # what the SDK raises for a file that does not exist
            raise modal.exception.NotFoundError(str(error)) from error
        return Bundle.model_validate_json(bytes(data))

    async def runs_before(self, day: str) -> AsyncIterator[str]:
        """The ids of the archived runs that were accepted before `day` (YYYY-MM-DD). Platform errors are raised."""
        for entry in await self._list("/"):
            if entry.path.strip("/") < day:
                for run in await self._list(entry.path):
                    yield run.path.rpartition("/")[2]

    async def remove(self, run_id: str) -> None:
        """Remove a run's archive. Idempotent. Platform errors are raised."""
        try:
            await self._volume.remove_file.aio(directory(run_id), recursive=True)
        except modal.exception.NotFoundError:
            return

    async def _list(self, path: str) -> list[FileEntry]:
        return [entry for entry in await self._entries(path) if entry.type == FileEntryType.DIRECTORY]

    async def _entries(self, path: str) -> list[FileEntry]:
        return list(await self._volume.listdir.aio(path))

    async def _commit(self) -> None:
        """Return when a commit has ended that began after this call.

        Callers that arrive while a commit is running share the one after it: N archives need far fewer than N commits.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._commit_after(self._committing))
        await asyncio.shield(self._next)

    async def _commit_after(self, running: "asyncio.Task[None] | None") -> None:
        if running is not None:
            await asyncio.wait([running])
        self._committing, self._next = self._next, None
        await asyncio.wait_for(self._volume.commit.aio(), _COMMIT_S)  # type: ignore[no-untyped-call]  # as the SDK has it


def _make_empty(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)


def _batch_after(frames: bytes, last: int, last_of_run: int) -> Batch:
    """Make whole frames that follow event `last` into a batch; the last frame's number is read from its `id:` line."""
    start = frames.rfind(b"\n\n", 0, -2)
    begin = 0 if start < 0 else start + 2
    number = int(frames[begin + len(b"id: ") : frames.index(b"\n", begin)])
    return Batch(last + 1, number, frames, terminal=number == last_of_run)

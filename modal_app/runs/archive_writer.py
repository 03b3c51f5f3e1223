"""The archive: each ended run's events and proof, on a volume, below the day on which the run was accepted.

Of a job of the Claude CLI it also holds what was asked and what was said with the model, so that it can be replayed.

Written through the mount and committed explicitly; read through the volume's API, which sees what is committed.
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
REQUEST = "request.json"  # of a run that spoke to the model
TRAFFIC = "model.jsonl"  # what it said
_COMMIT_S = 60.0


class ArchiveFailedError(Exception):
    """The archive could not be written or committed; a later attempt may succeed."""


def day_of(run_id: str) -> str:
    """The day, in UTC, that a run id carries."""
    milliseconds = uuid.UUID(run_id).int >> 80
    try:
        return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return "unknown"


def directory(run_id: str) -> str:
    """Where a run's archive is in the volume."""
    return f"/{day_of(run_id)}/{run_id}"


class Archive:
    """Writes archives in the background of everything else, and reads them."""

    def __init__(self, state: SharedState, *, root: Path = ARCHIVE) -> None:
        self._volume = state.archive
        self._traffic = Traffic(state.traffic)
        self._root = root
        self._committing: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def write(self, spool: Spool, bundle: Bundle, request: Request | None = None) -> None:
        """Write a run's events and proof and return when they are there for others. Raises ArchiveFailedError.

        `request` is None when it is not known any more.
        """
        target = self._root / directory(bundle.run_id).lstrip("/")
        try:
            await asyncio.to_thread(_make_empty, target)
            with (target / EVENTS).open("wb") as file:
                async for piece in spool.read():
                    await asyncio.to_thread(file.write, piece)
            if bundle.action == "claude":
                await self._write_traffic(target, bundle.run_id, request)
            (target / BUNDLE).write_text(bundle.model_dump_json(indent=1, exclude_none=True))
            await self._commit()
            await self._read_back(bundle)
            if bundle.action == "claude":
                await self._traffic.clear(of_run(bundle.run_id))
        except PLATFORM_ERRORS as error:
            raise ArchiveFailedError(f"{type(error).__name__}: {error}"[:300]) from error

    async def _write_traffic(self, target: Path, run_id: str, request: Request | None) -> None:
        if request is not None:
            (target / REQUEST).write_bytes(dump_request(without_secrets(request)))
        with (target / TRAFFIC).open("wb") as file:
            for exchange in await self._traffic.read(of_run(run_id)):
                await asyncio.to_thread(file.write, dump_exchanges([exchange]))

    async def _read_back(self, bundle: Bundle) -> None:
        """See that a commit that was acknowledged is one. Raises ArchiveFailedError, platform errors."""
        sizes = {entry.path.rpartition("/")[2]: entry.size for entry in await self._entries(directory(bundle.run_id))}
        if sizes.get(EVENTS) != bundle.events.bytes or await self.bundle(bundle.run_id) != bundle:
            raise ArchiveFailedError("the commit was acknowledged, but what it holds is not there")

    async def read(self, run_id: str, spool: Spool) -> None:
        """Fill a spool from an archive. Platform errors are raised, NotFoundError when there is none."""
        held = bytearray()
        last = 0
        bundle = await self.bundle(run_id)
        async for piece in self._volume.read_file.aio(f"{directory(run_id)}/{EVENTS}"):
            held += piece
            if (end := held.rfind(b"\n\n") + 2) > 1:
                batch = _whole(bytes(held[:end]), last, bundle.events.last_seq)
                del held[:end]
                last = batch.last
                spool.append(batch)

    async def bundle(self, run_id: str) -> Bundle:
        """A run's proof. Platform errors are raised, NotFoundError when there is none."""
        data = bytearray()
        try:
            async for piece in self._volume.read_file.aio(f"{directory(run_id)}/{BUNDLE}"):
                data += piece
        except FileNotFoundError as error:  # as the SDK has it for a file
            raise modal.exception.NotFoundError(str(error)) from error
        return Bundle.model_validate_json(bytes(data))

    async def runs_before(self, day: str) -> AsyncIterator[str]:
        """The ids of the runs that were accepted before a day."""
        for entry in await self._list("/"):
            if entry.path.strip("/") < day:
                for run in await self._list(entry.path):
                    yield run.path.rpartition("/")[2]

    async def remove(self, run_id: str) -> None:
        """Remove an archive. Idempotent."""
        try:
            await self._volume.remove_file.aio(directory(run_id), recursive=True)
        except modal.exception.NotFoundError:
            return

    async def _list(self, path: str) -> list[FileEntry]:
        return [entry for entry in await self._entries(path) if entry.type == FileEntryType.DIRECTORY]

    async def _entries(self, path: str) -> list[FileEntry]:
        return list(await self._volume.listdir.aio(path))

    async def _commit(self) -> None:
        """Return when a commit that began after this call has ended; those who wait meanwhile share the next one."""
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


def _whole(frames: bytes, last: int, last_of_run: int) -> Batch:
    """Whole frames as a batch: the number of the last one stands in its first line."""
    start = frames.rfind(b"\n\n", 0, -2)
    begin = 0 if start < 0 else start + 2
    number = int(frames[begin + len(b"id: ") : frames.index(b"\n", begin)])
    return Batch(last + 1, number, frames, terminal=number == last_of_run)

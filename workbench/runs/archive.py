"""Finds, reads and checks the archives of ended runs, through Modal's own volume API. Blocking calls.

An endpoint archives each run after its end, so one that has just ended may take a moment to be here. Directories are
named by day and runs by UUIDs of version 7, so names sort by time and the newest are found without reading the rest.
"""

import asyncio
import builtins
import re
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import modal
from modal.exception import NotFoundError
from modal.types import FileEntryType
from pydantic import ValidationError

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.proof import Bundle, Check
from modal_app.runs.archive_writer import BUNDLE, EVENTS, REQUEST, TRAFFIC, day_of, directory
from modal_app.runs.run_records import Records, RunRecord
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS
from workbench.errors import WorkbenchError
from workbench.runs.archived_run import ArchivedRun, ListedRun, RunList
from workbench.runs.background_loop import BackgroundLoop
from workbench.runs.measured import NOTHING, Measured
from workbench.runs.project import Project

T = TypeVar("T")

Blame = Callable[[Bundle], str]
"""Tells which fault rule has ended a run; "" where none has."""

MAX_BUNDLE_BYTES = 256 * 1024  # a real one has about two thousand bytes
MAX_STREAM_BYTES = 1024**3  # held in memory when a run is read or checked
MAX_TRAFFIC_BYTES = 128 * 1024 * 1024  # four times what a run's archive holds at most
MAX_LOOKED_AT = 2000  # runs whose bundle is read for one list
MAX_LIVE = 200  # runs that go on, in one answer
_AT_ONCE = 16  # reads
_LIST_S = 120.0
_READ_S = 600.0
_RETRY_S = 0.25
_NOT_THERE = (
    "there is no archive of run {run_id}: it has not ended yet (`workbench runs follow` shows it live), has ended just "
    "now, or is no longer kept"
)
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _none(_bundle: Bundle) -> str:
    return ""


class RunNotArchivedError(WorkbenchError):
    """There is no archive of this run: it has not ended, has just ended, is no longer kept, or never was."""


class ArchiveUnreadableError(WorkbenchError):
    """A run's archive is not what an endpoint writes; `workbench runs verify` tells what is wrong with it."""


class ArchiveUnavailableError(WorkbenchError):
    """The volume of archives cannot be read now; the message says why."""


class RunArchive:
    """The runs of one app: those that go on, and the archives of the others. Made by `Workbench.runs`.

    Every call raises ArchiveUnavailableError when it fails.
    """

    def __init__(
        self,
        volume: modal.Volume,
        records: Records,
        loop: BackgroundLoop,
        *,
        faults: Callable[[], Blame] = lambda: _none,
        measure: Callable[[Bundle], Measured] = lambda _bundle: NOTHING,
    ) -> None:
        """`faults` gives what tells which fault rule has ended a run; it is asked once for each list.

        `measure` tells what a run used of memory and processors.
        """
        self._faults = faults
        self._measure = measure
        self._volume = volume
        self._records = records
        self._loop = loop

    def list(
        self,
        *,
        limit: int = 20,
        project: Project | str = "",
        outcome: str = "",
        among: Collection[str] | None = None,
    ) -> RunList:
        """The newest runs, at most `limit`, the newest first.

        `project`, a Project or a project's id, narrows the list to its runs. `outcome` narrows it to runs that ended in
        one way: `done`, the code of an error, or `error` for any error. Runs whose facts cannot be read are listed only
        when neither is given. `among` narrows it to runs with these ids. At most MAX_LOOKED_AT runs are looked at.
        """
        found = self._call(self._list(_Filter.of(project, outcome), limit, among), _LIST_S)
        blame = self._faults()
        runs = tuple(one if one.bundle is None else replace(one, fault=blame(one.bundle)) for one in found)
        return replace(found, runs=runs)

    def live(self) -> tuple[RunRecord, ...]:
        """The runs that go on now, the newest first, at most MAX_LIVE; `Workbench.attach` follows one."""
        return self._call(self._live(), _LIST_S)

    def ids(self) -> Iterator[str]:
        """The ids of all archived runs, the newest first."""
        for day in self._call(self._days(), _LIST_S):
            yield from self._call(self._runs_of(day), _LIST_S)

    def get(self, run_id: str, *, wait_s: float = 0) -> ArchivedRun:
        """A run's facts and events. Waits up to `wait_s` seconds for an archive that is not there yet.

        Raises RunNotArchivedError, ArchiveUnreadableError, and ContractError `invalid_request` for a malformed id.
        """
        found = self._find(run_id, wait_s, whole=True)
        return replace(found, fault=self._faults()(found.bundle), measure=lambda: self._measure(found.bundle))

    def verify(self, run_id: str, *, wait_s: float = 0) -> tuple[Check, ...]:
        """Check a run by its archive; files that are missing or unreadable make a failed check.

        Waits as `get` does. Raises RunNotArchivedError, and ContractError `invalid_request` for a malformed id.
        """
        try:
            return self._find(run_id, wait_s, whole=False).checks()
        except ArchiveUnreadableError as error:
            return (Check(name="archive", ok=False, detail=str(error)),)

    def _find(self, run_id: str, wait_s: float, *, whole: bool) -> ArchivedRun:
        if not _RUN_ID.fullmatch(run_id):
            raise ContractError(ErrorCode.INVALID_REQUEST, "run_id: must be a canonical lower-case UUID")
        return self._call(self._get(run_id, wait_s, whole=whole), _READ_S + wait_s)

    def _call(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        try:
            return self._loop.call(work, timeout_s=timeout_s)
        except PLATFORM_ERRORS as error:
            reason = str(error) or f"no answer within {timeout_s:g} s"
            message = f"the archives cannot be read now ({type(error).__name__}): {reason}"[:300]
            raise ArchiveUnavailableError(message) from error

    async def _live(self) -> tuple[RunRecord, ...]:
        ids = sorted(filter(_RUN_ID.fullmatch, await self._records.under_way()), reverse=True)[:MAX_LIVE]
        found = await asyncio.gather(*map(self._records.get, ids))
        return tuple(one for one in found if one is not None and one.state == "open")

    async def _list(self, wanted: "_Filter", limit: int, among: Collection[str] | None) -> RunList:
        found: builtins.list[ListedRun] = []
        looked_at = 0
        days = None if among is None else {day_of(one) for one in among if _RUN_ID.fullmatch(one)}
        for day in await self._days():
            if days is not None and day not in days:
                continue
            ids = [one for one in await self._runs_of(day) if among is None or one in among]
            for start in range(0, len(ids), _AT_ONCE):
                if len(found) >= limit or looked_at >= MAX_LOOKED_AT:
                    return RunList(tuple(found[:limit]), complete=False)
                batch = ids[start : start + _AT_ONCE]
                looked_at += len(batch)
                found += filter(wanted.takes, await asyncio.gather(*map(self._listed, batch)))
        return RunList(tuple(found[:limit]), complete=len(found) <= limit)

    async def _listed(self, run_id: str) -> ListedRun:
        try:
            return ListedRun(run_id, await self._bundle(run_id))
        except ArchiveUnreadableError as error:
            return ListedRun(run_id, None, str(error))

    async def _get(self, run_id: str, wait_s: float, *, whole: bool) -> ArchivedRun:
        """Read a run's archive; with `whole`, also its request and its exchanges with the model, if they are there."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                bundle = await self._bundle(run_id)
                stream = await self._read(f"{directory(run_id)}/{EVENTS}", MAX_STREAM_BYTES)
                if not whole:
                    return ArchivedRun(run_id, bundle, stream)
                names = (REQUEST, TRAFFIC) if bundle.action == "claude" else (REQUEST,)
                found = await asyncio.gather(*(self._read_if_there(f"{directory(run_id)}/{name}") for name in names))
                request, traffic = (*found, b"")[:2]
                return ArchivedRun(run_id, bundle, stream, request=request, traffic=traffic)
            except ArchiveUnreadableError:  # it may be being written just now
                if time.monotonic() >= deadline:
                    if run_id not in await self._runs_of(day_of(run_id)):
                        raise RunNotArchivedError(_NOT_THERE.format(run_id=run_id)) from None
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _bundle(self, run_id: str) -> Bundle:
        data = await self._read(f"{directory(run_id)}/{BUNDLE}", MAX_BUNDLE_BYTES)
        try:
            return Bundle.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise ArchiveUnreadableError(f"{BUNDLE} is not a run's proof: {where}: {first['msg']}") from None

    async def _read(self, path: str, limit: int) -> bytes:
        """A file's bytes. Raises ArchiveUnreadableError when it does not exist or has more than `limit` bytes."""
        data = bytearray()
        name = path.rpartition("/")[2]
        try:
            async with aclosing(self._volume.read_file.aio(path)) as pieces:
                async for piece in pieces:
                    data += piece
                    if len(data) > limit:
                        raise ArchiveUnreadableError(f"{name} is too large: at most {limit} bytes are read")
        except (FileNotFoundError, NotFoundError):
            raise ArchiveUnreadableError(f"{name} is missing") from None
        return bytes(data)

    async def _read_if_there(self, path: str) -> bytes:
        """A file's bytes; empty when it does not exist or is too large."""
        try:
            return await self._read(path, MAX_TRAFFIC_BYTES)
        except ArchiveUnreadableError:
            return b""

    async def _days(self) -> "builtins.list[str]":
        return sorted(filter(_DAY.fullmatch, await self._directories("/")), reverse=True)

    async def _runs_of(self, day: str) -> "builtins.list[str]":
        return sorted(filter(_RUN_ID.fullmatch, await self._directories(f"/{day}")), reverse=True)

    async def _directories(self, path: str) -> "builtins.list[str]":
        try:
            entries = await self._volume.listdir.aio(path)
        except (FileNotFoundError, NotFoundError):
            return []
        return [entry.path.rpartition("/")[2] for entry in entries if entry.type == FileEntryType.DIRECTORY]


@dataclass(frozen=True)
class _Filter:
    user_id: str
    project_id: str
    outcome: str

    @classmethod
    def of(cls, project: Project | str, outcome: str) -> "_Filter":
        if isinstance(project, Project):
            return cls(project.user_id, project.project_id, outcome)
        return cls("", project, outcome)

    def takes(self, run: ListedRun) -> bool:
        """Whether a run passes the filter; one whose facts cannot be read passes only if nothing is filtered."""
        if run.bundle is None:
            return self == _Filter("", "", "")
        bundle = run.bundle
        ended = self.outcome in ("", bundle.outcome) or (self.outcome == "error" and bundle.outcome != "done")
        return ended and self.project_id in ("", bundle.project_id) and self.user_id in ("", bundle.user_id)

"""Leases: at most one run writes to a project at a time. A project has a chain of leases, numbered from 1.

A lease is claimed by putting the next link of the chain, which succeeds for one claimant only. Afterwards the link is
changed by its holder alone, and it is never removed, so that a slow claimant cannot take a number a second time. The
platform's own names are a second lock below this one: it refuses a second sandbox with the name of the project.
"""

import asyncio
import time

from pydantic import BaseModel, ConfigDict

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.runs.ownership import Pulse
from modal_app.runs.run_records import Records, RunRecord, put_first
from modal_app.runs.shared_state import SharedState

SUBMIT_S = 60.0  # for a submission as a whole: by then a claim is followed by its run's record, or by nothing
_UNUSED_S = SUBMIT_S + 30.0  # after which a claim without a record holds nothing; clocks differ by less
_ATTEMPTS = 5


class WarmSandbox(BaseModel):
    """A sandbox that a `prewarm` has created and that waits for a run until `until_ms`, in Unix milliseconds.

    `reach` is the one host that it can connect to; None when it has no network.
    """

    model_config = ConfigDict(frozen=True)

    sandbox_id: str
    until_ms: int
    reach: str | None = None


class Lease(BaseModel):
    """One link of a project's chain: the run that holds the project, and the container that owns the run.

    `at_ms` is when the run was accepted, in Unix milliseconds, and `submission` which request claimed it. `warm` is the
    sandbox that the holder has left for the next run, told with the release.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    run_id: str
    owner: str
    at_ms: int = 0
    submission: str = ""
    released: bool = False
    warm: WarmSandbox | None = None

    def is_of(self, record: RunRecord) -> bool:
        """Whether this very submission has claimed it; another one with the same key has not."""
        return (self.run_id, self.owner, self.submission) == (record.run_id, record.owner, record.submission)


class ProjectBusyError(ContractError):
    """Another run holds the project; `run_id` names it."""

    def __init__(self, run_id: str) -> None:
        super().__init__(ErrorCode.PROJECT_BUSY, f"run {run_id} holds this project", run_id=run_id)


class Leases:
    """Claims and releases leases of projects, which are given by their names. Platform errors are raised."""

    def __init__(self, state: SharedState, records: Records, pulse: Pulse) -> None:
        self._dict = state.records
        self._records = records
        self._pulse = pulse

    async def claim(self, project: str, record: RunRecord) -> tuple[Lease, WarmSandbox | None]:
        """Claim a project for a run; returns the lease, and the prewarmed sandbox that waits for it, if there is one.

        A claim whose answer was lost is known by its submission when it is made again.
        `point` should follow, for which nobody has to wait.
        Raises ProjectBusyError while the last lease is neither released nor over, and when other claims keep winning.
        """
        for _ in range(_ATTEMPTS):
            last = await self.last(project)
            if last is not None and not last.released and last.is_of(record):
                return last, _waiting(await self._before(project, last))
            if last is not None and not last.released and not await self._is_over(last):
                raise ProjectBusyError(last.run_id)
            mine = Lease(
                number=last.number + 1 if last else 1,
                run_id=record.run_id,
                owner=record.owner,
                at_ms=record.accepted_at_ms,
                submission=record.submission,
            )
            kept = Lease.model_validate_json(
                await put_first(self._dict, _link(project, mine.number), mine.model_dump_json())
            )
            if kept == mine:
                return mine, _waiting(last)
        raise ProjectBusyError(kept.run_id)

    async def point(self, project: str, lease: Lease) -> None:
        """Let the next claim of a project find a lease at once, instead of following the chain to it."""
        await self._dict.put.aio(_pointer(project), lease.number)

    async def release(self, project: str, lease: Lease, *, warm: WarmSandbox | None = None) -> None:
        """Release a project; `warm` is the sandbox that waits for its next run, if any."""
        kept = lease.model_copy(update={"released": True, "warm": warm})
        await self._dict.put.aio(_link(project, lease.number), kept.model_dump_json())

    async def give_back(self, project: str, record: RunRecord) -> bool:
        """Release a project that a claim of which no answer came may hold; returns whether it was claimed.

        The sandbox that waited for the claim waits for the next one.
        """
        last = await self.last(project)
        if last is None or not last.is_of(record):
            return False
        await self.release(project, last, warm=_waiting(await self._before(project, last)))
        return True

    async def last(self, project: str) -> Lease | None:
        """The newest lease of a project, released or not; None before the first.

        The pointer holds a number that may be too low; from there the chain is followed to its end.
        """
        pointer = await self._dict.get.aio(_pointer(project))
        number = int(pointer) if pointer is not None else 0
        found, following = await asyncio.gather(self._read(project, number), self._read(project, number + 1))
        while following is not None:
            number, found = number + 1, following
            following = await self._read(project, number + 1)
        return None if found is None else Lease.model_validate_json(found)

    async def _read(self, project: str, number: int) -> str | None:
        found = await self._dict.get.aio(_link(project, number)) if number else None
        return None if found is None else str(found)

    async def _before(self, project: str, lease: Lease) -> Lease | None:
        found = await self._read(project, lease.number - 1)
        return None if found is None else Lease.model_validate_json(found)

    async def _is_over(self, lease: Lease) -> bool:
        """Whether an unreleased lease holds nothing any more: its run has ended or never was, or its owner is dead."""
        record = await self._records.get(lease.run_id)
        if record is not None and record.state != "open":
            return True
        if record is None and time.time() - lease.at_ms / 1000 > _UNUSED_S:
            return True
        return await self._pulse.is_dead(lease.owner)


def _waiting(lease: Lease | None) -> WarmSandbox | None:
    """The sandbox that waits for the run after this lease, if its time is not over."""
    warm = lease.warm if lease is not None else None
    return warm if warm is not None and warm.until_ms > time.time() * 1000 else None


def _pointer(project: str) -> str:
    return f"lease/{project}"


def _link(project: str, number: int) -> str:
    return f"lease/{project}/{number}"

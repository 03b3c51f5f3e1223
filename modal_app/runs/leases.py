"""One writer for each project: a chain of leases, each of which names the run that holds it.

A lease is claimed by putting the next link of the chain, which succeeds for one claimant only; a link is written by its
holder alone and never taken out, so no claimant can come too late and take a lease twice. The platform's names are a
second lock below: it refuses a second sandbox of a project.
"""

import asyncio
import time

from pydantic import BaseModel, ConfigDict

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.runs.ownership import Pulse
from modal_app.runs.run_records import Records, put_first
from modal_app.runs.shared_state import SharedState

_ATTEMPTS = 5


class WarmSandbox(BaseModel):
    """A sandbox that was created ahead and waits for a run; `until_ms` is Unix time.

    `reach` is the one host that it reaches; None when it has no network.
    """

    model_config = ConfigDict(frozen=True)

    sandbox_id: str
    until_ms: int
    reach: str | None = None


class Lease(BaseModel):
    """One link of a project's chain."""

    model_config = ConfigDict(frozen=True)

    number: int
    run_id: str
    owner: str
    released: bool = False
    warm: WarmSandbox | None = None


class ProjectBusyError(ContractError):
    """Another run holds the project."""

    def __init__(self, run_id: str) -> None:
        super().__init__(ErrorCode.PROJECT_BUSY, f"run {run_id} holds this project", run_id=run_id)


class Leases:
    """Claims and releases leases. Platform errors are raised as they come."""

    def __init__(self, state: SharedState, records: Records, pulse: Pulse) -> None:
        self._dict = state.records
        self._records = records
        self._pulse = pulse

    async def claim(self, project: str, *, run_id: str, owner: str) -> tuple[Lease, WarmSandbox | None]:
        """Take a project; returns the lease, and the sandbox that was made ahead, if it may still be there.

        Raises ProjectBusyError.
        """
        for _ in range(_ATTEMPTS):
            last = await self.last(project)
            if last is not None and not last.released and not await self._is_over(last):
                raise ProjectBusyError(last.run_id)
            mine = Lease(number=last.number + 1 if last else 1, run_id=run_id, owner=owner)
            kept = Lease.model_validate_json(
                await put_first(self._dict, _link(project, mine.number), mine.model_dump_json())
            )
            if kept == mine:
                await self._dict.put.aio(_pointer(project), mine.number)
                warm = last.warm if last is not None else None
                return mine, warm if warm is not None and warm.until_ms > time.time() * 1000 else None
        raise ProjectBusyError(kept.run_id)

    async def release(self, project: str, lease: Lease, *, warm: WarmSandbox | None = None) -> None:
        """Give a project back, with the sandbox that waits for its next run."""
        kept = lease.model_copy(update={"released": True, "warm": warm})
        await self._dict.put.aio(_link(project, lease.number), kept.model_dump_json())

    async def last(self, project: str) -> Lease | None:
        """The newest lease of a project, released or not.

        The chain is followed from where the pointer says; the pointer may lag behind, the chain never does.
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

    async def _is_over(self, lease: Lease) -> bool:
        """Whether the holder's run has ended, or nobody executes it any more."""
        record = await self._records.get(lease.run_id)
        if record is not None and record.state != "open":
            return True
        return await self._pulse.is_dead(lease.owner)


def _pointer(project: str) -> str:
    return f"lease/{project}"


def _link(project: str, number: int) -> str:
    return f"lease/{project}/{number}"

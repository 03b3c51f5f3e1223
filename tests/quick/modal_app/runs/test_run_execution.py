"""What a run does when the shared state fails or hangs."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import modal.exception
import pytest

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import Phase
from modal_app.contract.requests import PythonRequest
from modal_app.runs.batches import Batch
from modal_app.runs.event_spool import Spool
from modal_app.runs.journal import Journal
from modal_app.runs.leases import Lease, WarmSandbox
from modal_app.runs.log import LogWriter
from modal_app.runs.run_execution import Run
from modal_app.runs.run_records import RunRecord

RUN_ID = USER = PROJECT = "0190b1a4-0000-7000-8000-000000000000"
TIMEOUTS = SimpleNamespace(lease_s=0.2, disconnect_grace_s=600)
DEADLINE_S = 30


class _Log(LogWriter):
    """A log that takes everything."""

    def __init__(self) -> None:
        """Keep nothing."""

    async def append(self, batch: Batch) -> None:
        """Drop the batch."""


class _Leases:
    """Leases of a platform that is away for the first `away` claims."""

    def __init__(self, away: int) -> None:
        self.away = away

    async def claim(self, project: str, record: RunRecord) -> tuple[Lease, WarmSandbox | None]:
        self.away -= 1
        if self.away >= 0:
            raise modal.exception.ServiceError("away")
        return Lease(number=1, run_id=record.run_id, owner=record.owner, at_ms=record.accepted_at_ms), None


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    record = RunRecord(
        run_id=RUN_ID,
        user_id=USER,
        project_id=PROJECT,
        action="python",
        body_sha256="",
        owner="owner",
        accepted_at_ms=1,
    )
    request = PythonRequest(user_id=USER, project_id=PROJECT, action="python", code="1", wait_s=1)
    resources = SimpleNamespace(settings=SimpleNamespace(timeouts=TIMEOUTS), leases=_Leases(2))
    one = Run(record, request, Journal(Spool(RUN_ID), _Log()), cast("Any", resources))
    one.journal.status(Phase.ACCEPTED, "the run is accepted")
    yield one
    one.readers.close()
    one.journal.spool.close()


async def test_a_write_that_hangs_does_not_hold_up_a_run_s_end(run: Run) -> None:
    """The release of its project is such a write: the SDK waits for its answer without a deadline."""
    await asyncio.wait_for(run._note(asyncio.sleep(3600)), DEADLINE_S)


async def test_a_run_that_waits_for_its_project_waits_over_an_outage_too(run: Run) -> None:
    lease = await asyncio.wait_for(run._wait_for_the_project("project"), DEADLINE_S)
    assert (lease.run_id, lease.at_ms) == (RUN_ID, run.record.accepted_at_ms)


async def test_an_outage_as_long_as_a_run_may_wait_is_told_as_one(run: Run) -> None:
    run._resources.leases.away = 10**9  # type: ignore[attr-defined]  # ours
    with pytest.raises(ContractError) as failed:
        await asyncio.wait_for(run._wait_for_the_project("project"), DEADLINE_S)
    assert failed.value.code is ErrorCode.SANDBOX_UNAVAILABLE

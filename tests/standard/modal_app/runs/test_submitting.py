"""A submission that breaks off half-way leaves its project free and no run open, on the shared state of a cloud."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import modal.exception
import pytest

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.requests import PythonRequest
from modal_app.endpoint_settings import Settings
from modal_app.runs.leases import Leases, ProjectBusyError
from modal_app.runs.ownership import Ownership, Pulse
from modal_app.runs.run_records import Records, RunRecord
from modal_app.runs.run_service import RunService
from modal_app.runs.shared_state import SharedState
from modal_app.sandboxes.fleet import project_name
from workbench import Project
from workbench.local_cloud import Running

DEADLINE_S = 60
LEASE_S = 30


@pytest.fixture
def shared(cloud: Running) -> SharedState:
    return SharedState.named("submitting")


@pytest.fixture
async def service(shared: SharedState, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunService]:
    monkeypatch.setenv("WORKBENCH_SECRET", "s" * 16)
    monkeypatch.setattr("modal_app.runs.run_service._UNDO_PAUSE_S", 0.1)
    one = RunService(Settings(), cast("Any", None), shared, cast("Any", None))
    yield one
    await one.aclose()


def request(project: Project) -> PythonRequest:
    return PythonRequest(user_id=project.user_id, project_id=project.project_id, action="python", code="1")


def leases(shared: SharedState) -> Leases:
    return Leases(shared, Records(shared), Pulse(shared, lease_s=LEASE_S))


async def is_free(shared: SharedState, project: Project) -> None:
    """Wait until the newest lease of a project, which was claimed, is released."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            last = await leases(shared).last(project_name(project.user_id, project.project_id))
            if last is not None and last.released:
                return
            await asyncio.sleep(0.05)


async def test_a_claim_whose_answer_is_lost_is_given_back(
    service: RunService, shared: SharedState, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = service._leases.claim

    async def claimed_unheard(*arguments: Any, **named: Any) -> None:
        await claim(*arguments, **named)
        raise modal.exception.ServiceError("the answer is lost")

    monkeypatch.setattr(service._leases, "claim", claimed_unheard)
    with pytest.raises(ContractError) as refused:
        await service.submit(request(project), "key")
    assert refused.value.code is ErrorCode.SANDBOX_UNAVAILABLE
    await is_free(shared, project)


async def test_a_submission_that_takes_too_long_is_undone(
    service: RunService, shared: SharedState, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record may be there, and nobody executes the run."""
    create = service._records.create
    closed: asyncio.Queue[RunRecord] = asyncio.Queue()

    async def created_unheard(record: RunRecord) -> None:
        await create(record)
        await asyncio.sleep(3600)

    async def close(record: RunRecord, reason: ContractError) -> None:
        closed.put_nowait(record)

    monkeypatch.setattr("modal_app.runs.run_service.SUBMIT_S", 5.0)
    monkeypatch.setattr(service._records, "create", created_unheard)
    monkeypatch.setattr(service, "_closer", SimpleNamespace(close=close))
    with pytest.raises(ContractError) as refused:
        await service.submit(request(project), "key")
    assert refused.value.code is ErrorCode.SANDBOX_UNAVAILABLE
    await is_free(shared, project)
    record = await asyncio.wait_for(closed.get(), DEADLINE_S)
    assert (record.project_id, record.state) == (project.project_id, "open")


def record(project: Project, owner: str, *, number: int, accepted_at_ms: int, submission: str = "first") -> RunRecord:
    return RunRecord(
        run_id=f"0190b1a4-0000-7000-8000-00000000000{number}",
        user_id=project.user_id,
        project_id=project.project_id,
        action="python",
        body_sha256="",
        owner=owner,
        accepted_at_ms=accepted_at_ms,
        submission=submission,
    )


async def test_a_claim_that_no_run_has_followed_is_over_after_a_while(shared: SharedState, project: Project) -> None:
    """Its owner lives, and has forgotten it."""
    owner = Ownership(shared, lease_s=LEASE_S, on_lost=lambda: None)
    await owner.start()
    try:
        now_ms = int(time.time() * 1000)
        for number, age_ms in enumerate((200_000, 100_000, 1000), start=1):
            mine = record(project, owner.owner, number=number, accepted_at_ms=now_ms - age_ms)
            lease, _ = await leases(shared).claim(project.project_id, mine)
            assert lease.number == number
        again, _ = await leases(shared).claim(project.project_id, mine)
        assert again == lease  # the same claim, made again because its answer was lost
        other = record(project, owner.owner, number=9, accepted_at_ms=now_ms)
        with pytest.raises(ProjectBusyError):
            await leases(shared).claim(project.project_id, other)
    finally:
        await owner.aclose()


async def test_of_two_requests_with_one_key_at_one_moment_one_holds_the_project(
    shared: SharedState, project: Project
) -> None:
    """Two clicks can meet in one millisecond of one container: the other one takes nothing from the first."""
    owner = Ownership(shared, lease_s=LEASE_S, on_lost=lambda: None)
    await owner.start()
    try:
        first = record(project, owner.owner, number=7, accepted_at_ms=int(time.time() * 1000))
        second = first.model_copy(update={"submission": "second"})
        held, _ = await leases(shared).claim(project.project_id, first)
        with pytest.raises(ProjectBusyError):
            await leases(shared).claim(project.project_id, second)
        assert not await leases(shared).give_back(project.project_id, second)
        assert await leases(shared).last(project.project_id) == held
        records = Records(shared)
        assert await records.create(first) == first
        assert await records.create(second) == first
    finally:
        await owner.aclose()

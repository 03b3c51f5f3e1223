"""Who may speak to the model: runs that go on, and nobody after them."""

import asyncio
import time
from dataclasses import replace

import modal
import pytest
from pydantic import SecretStr

from modal_app.actions import ModelGrant
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.model.access import ModelAccess, host_of
from modal_app.runs.liveness import liveness
from modal_app.runs.run_records import Records, RunRecord, new_run_id
from modal_app.runs.shared_state import SharedState
from tests.conftest import Running

OPEN = RunRecord(
    run_id="",
    user_id="u",
    project_id="p",
    action="claude",
    body_sha256="0",
    owner="o",
    accepted_at_ms=int(time.time() * 1000),
)


async def test_a_run_lives_until_its_record_says_otherwise(cloud: Running) -> None:
    state = SharedState.named("access-tests")
    now = 0.0
    is_live = liveness(state, clock=lambda: now)
    record = OPEN.model_copy(update={"run_id": new_run_id()})
    assert not await is_live(record.run_id), "nobody has heard of it"
    await Records(state).create(record)
    now = 1.5
    assert await is_live(record.run_id)
    await Records(state).ended(record, "done")
    assert await is_live(record.run_id), "what is known counts for a second"
    now = 3.0
    assert not await is_live(record.run_id)


async def test_a_state_that_cannot_be_asked_is_no_yes(cloud: Running) -> None:
    """The gateway answers that it cannot tell."""
    state = SharedState.named("access-tests")
    gone = modal.Dict.from_name("access-tests-of-nobody")
    with pytest.raises(modal.exception.NotFoundError):
        await liveness(replace(state, records=gone))("run")


async def test_without_a_model_nothing_is_granted() -> None:
    access = ModelAccess(None, modal.Function.from_name("access-tests", "model_gateway"))
    with pytest.raises(ContractError) as caught:
        access.check()
    assert caught.value.code is ErrorCode.MODEL_ERROR
    with pytest.raises(ContractError):
        await access.grant("run", lasts_s=1)


async def test_a_gateway_that_cannot_be_found_is_no_fault_of_the_model(cloud: Running) -> None:
    access = ModelAccess(SecretStr("s" * 20), modal.Function.from_name("access-tests", "model_gateway"))
    access.check()
    async with asyncio.timeout(60):
        with pytest.raises(ContractError) as caught:
            await access.grant("run", lasts_s=1)
    assert caught.value.code is ErrorCode.SANDBOX_UNAVAILABLE


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://a--gateway.modal.run", "a--gateway.modal.run"), ("http://127.0.0.1:1234", "127.0.0.1:1234")],
)
def test_a_sandbox_may_reach_the_gateways_host_alone(url: str, host: str) -> None:
    assert host_of(ModelGrant(url, SecretStr("t"))) == host

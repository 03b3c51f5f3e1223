"""Messages to an owner, on the queue of a cloud."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modal_app.runs.archive_writer import Archive
from modal_app.runs.run_messages import Control, Message
from modal_app.runs.run_records import Records
from modal_app.runs.shared_state import SharedState
from modal_app.runs.supervisor import Supervisor
from workbench.local_cloud import Running

CANCEL = Message(op="cancel", run_id="0190b1a4-0000-7000-8000-000000000000")
DEADLINE_S = 60


@pytest.fixture
def shared(cloud: Running, monkeypatch: pytest.MonkeyPatch) -> SharedState:
    monkeypatch.setattr("modal_app.runs.run_messages._WAIT_S", 0.2)
    monkeypatch.setattr("modal_app.runs.supervisor._LISTEN_AGAIN_S", 0.01)
    return SharedState.named("messages")


async def test_a_cancel_that_comes_after_a_wait_without_messages_is_received(shared: SharedState) -> None:
    control = Control(shared)
    assert await control.receive("idle") == []
    await control.send("idle", CANCEL)
    assert await asyncio.wait_for(control.receive("idle"), DEADLINE_S) == [CANCEL]


async def test_an_owner_hears_a_cancel_after_a_message_that_it_could_not_act_on(
    shared: SharedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stops to listen goes on with its runs, and nobody can cancel them."""
    supervisor = Supervisor(cast("Any", None), shared, Records(shared), Archive(shared), cast("Any", None))
    heard = asyncio.Event()
    faults = iter([RuntimeError("a fault of the endpoint's own")])

    def cancel() -> None:
        for fault in faults:
            raise fault
        heard.set()

    monkeypatch.setitem(supervisor._runs, CANCEL.run_id, cast("Any", SimpleNamespace(cancel=cancel)))
    listening = asyncio.create_task(supervisor._listen("faulty"))
    try:
        for _ in range(2):
            await Control(shared).send("faulty", CANCEL)
        await asyncio.wait_for(heard.wait(), DEADLINE_S)
        assert not listening.done()
    finally:
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening

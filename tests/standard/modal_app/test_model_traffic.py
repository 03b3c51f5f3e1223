"""What was said with the model is there for every container, in order, and no more of it than a recording may hold."""

import asyncio
import uuid
import zlib

import modal
import pytest
from structlog.testing import capture_logs

from modal_app.model import traffic
from modal_app.model.traffic import Recorder, Replays, Traffic, of_replay, of_run
from modal_app.model_gateway.recording import Exchange
from tests.conftest import Running


def exchange(answer: str, prompt: str = "hi") -> Exchange:
    asked = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    kept = {"path": "/v1/messages", "status": 200, "content_type": "application/json", "whole": True}
    return Exchange(request=asked, answer=answer, **kept)  # type: ignore[arg-type]  # a dict of all kinds


@pytest.fixture
def queue(cloud: Running) -> modal.Queue:
    return modal.Queue.from_name("traffic-tests", create_if_missing=True)


@pytest.fixture
def run_id() -> str:
    return str(uuid.uuid4())


async def test_exchanges_come_back_in_order_whoever_asks_and_are_gone_when_they_are_kept(
    queue: modal.Queue, run_id: str
) -> None:
    said = [exchange(str(number)) for number in range(3)]
    said.append(exchange("é" * 2_000_000 + str(uuid.uuid4())))
    recorder = Recorder(Traffic(queue))
    for one in said:
        await recorder(run_id, one)
    for _ in range(2):
        assert await Traffic(queue).read(of_run(run_id)) == said
    assert await Traffic(queue).read(of_run("another")) == []
    await Traffic(queue).clear(of_run(run_id))
    assert await Traffic(queue).read(of_run(run_id)) == []


async def test_what_cannot_be_packed_small_comes_in_parts(
    queue: modal.Queue, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packed(one: Exchange) -> bytes:
        return zlib.compress(one.model_dump_json().encode(), 0)

    monkeypatch.setattr(traffic, "_packed", packed)
    big = exchange("x" * 3_000_000)
    await Traffic(queue).append(of_run(run_id), [big, exchange("2")])
    assert await Traffic(queue).read(of_run(run_id)) == [big, exchange("2")]


async def test_a_recording_that_is_full_has_no_gap_and_the_next_run_one_of_its_own(
    queue: modal.Queue, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "MAX_RECORDED_BYTES", 3000)
    recorder = Recorder(Traffic(queue))
    with capture_logs() as logs:
        for number in range(3):
            await recorder(run_id, exchange(f"{number}" * 1200))
        await recorder(run_id, exchange("small, and behind what was left out"))
        await recorder(f"{run_id}-2", exchange("another run's"))
    assert [one.answer[0] for one in await Traffic(queue).read(of_run(run_id))] == ["0", "1"]
    assert [one.answer for one in await Traffic(queue).read(of_run(f"{run_id}-2"))] == ["another run's"]
    assert [entry["event"] for entry in logs] == ["model.not_recorded"] * 2


async def test_a_bomb_on_the_queue_ends_the_recording(queue: modal.Queue, run_id: str) -> None:
    await Traffic(queue).append(of_run(run_id), [exchange("1")])
    await queue.put.aio(zlib.compress(bytes(traffic.MAX_ITEM_BYTES + 1)), partition=of_run(run_id))
    assert await Traffic(queue).read(of_run(run_id)) == [exchange("1")]


async def test_every_run_has_a_replay_of_its_own(queue: modal.Queue, run_id: str) -> None:
    said = exchange("1")
    await Traffic(queue).append(of_replay(run_id), [said])
    replays = Replays(Traffic(queue))
    first, same, other = await asyncio.gather(replays("a", run_id), replays("a", run_id), replays("b", run_id))
    assert first is same
    assert first.answer(said.path, said.request) == said
    assert (first.left, other.left) == (0, 1)
    assert await Traffic(queue).read(of_run(run_id)) == [], "what a run has said is no recording to be asked for"

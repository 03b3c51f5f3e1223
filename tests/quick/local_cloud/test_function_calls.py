"""Which calls are kept, and what of them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.functions import function_calls
from workbench.local_cloud.functions.function_calls import Call, Calls, DataStream

_DONE = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Calls of which the two that finished last are kept."""
    monkeypatch.setattr(function_calls, "_FINISHED_CALLS_KEPT", 2)
    return Calls()


def made(calls: Calls, *, open: bool = False) -> Call:  # noqa: A002  # as the parameter of `create`
    call = calls.create("fu-1", open=open)
    call.add(0, api_pb2.FunctionInput(args=b"large"))
    return call


def finish(call: Call) -> None:
    for item in call.inputs.values():
        item.finish(_DONE)


async def test_calls_that_wait_push_out_no_finished_one(calls: Calls) -> None:
    first = made(calls)
    finish(first)
    for _ in range(10):
        made(calls)
    assert calls.get(first.call_id) is first


async def test_the_calls_that_finished_first_go_first(calls: Calls) -> None:
    late, *others = [made(calls) for _ in range(3)]
    for call in (*others, late):
        finish(call)
    assert [calls.get(call.call_id) for call in (others[1], late)] == [others[1], late]
    with pytest.raises(CloudError):
        calls.get(others[0].call_id)


async def test_a_map_between_two_inputs_is_not_finished(calls: Calls) -> None:
    mapped = made(calls, open=True)
    assert calls.running() == [mapped]
    finish(mapped)
    for _ in range(3):
        finish(made(calls))
    assert not calls.get(mapped.call_id).done
    assert calls.running() == []
    mapped.close_inputs()
    assert calls.get(mapped.call_id).done


async def test_arguments_are_kept_until_there_is_an_output(calls: Calls) -> None:
    call = made(calls)
    [item] = call.inputs.values()
    assert item.payload.args == b"large"
    finish(call)
    assert item.payload.args == b""


async def test_what_a_web_calls_client_has_sent_is_kept_until_the_call_ends(calls: Calls) -> None:
    call = made(calls)
    await call.data_in.put(api_pb2.DataChunk(data=b"body"))
    assert [chunk.data async for chunk in first(call.data_in)] == [b"body"]
    assert (call.data_in.kept_bytes, call.can_start_again) == (len(b"body"), True)
    finish(call)
    assert call.data_in.kept_bytes == 0
    assert [chunk async for chunk in call.data_in.read()] == []


async def first(stream: DataStream) -> AsyncIterator[api_pb2.DataChunk]:
    async for chunk in stream.read():
        yield chunk
        return


@pytest.fixture
def few_bytes(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Calls of whose results 1,000 bytes are kept, from their end on."""
    monkeypatch.setattr(function_calls, "_FINISHED_BYTES_KEPT", 1000)
    monkeypatch.setattr(function_calls, "_READING_S", 0.0)
    return Calls()


def finish_with(call: Call, size: int) -> None:
    for item in call.inputs.values():
        item.finish(api_pb2.GenericResult(status=_DONE.status, data=b"x" * size))


async def test_results_are_kept_up_to_a_limit_in_bytes_and_the_first_go_first(few_bytes: Calls) -> None:
    small, large, last = (made(few_bytes) for _ in range(3))
    finish_with(small, 100)
    finish_with(large, 600)
    assert few_bytes.find(small.call_id) is small
    finish_with(last, 600)
    assert [few_bytes.find(call.call_id) for call in (small, large, last)] == [None, None, last]


async def test_results_that_were_read_take_no_room(few_bytes: Calls) -> None:
    read, yielded, last = (made(few_bytes) for _ in range(3))
    finish_with(read, 600)
    for item in read.inputs.values():
        item.release()
    await yielded.data_out.put(api_pb2.DataChunk(data=b"x" * 600))
    finish(yielded)
    assert len([chunk async for chunk in yielded.data_out.read()]) == 1
    finish_with(last, 600)
    assert [few_bytes.find(call.call_id) for call in (read, yielded, last)] == [read, yielded, last]


async def test_results_that_are_perhaps_being_read_are_kept_for_a_while(
    few_bytes: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function_calls, "_READING_S", 0.2)
    mapped = made(few_bytes)
    finish_with(mapped, 2000)
    assert few_bytes.find(mapped.call_id) is mapped
    while few_bytes.find(mapped.call_id) is not None:  # noqa: ASYNC110  # nobody is told, and no other call needed
        await asyncio.sleep(0.01)


async def test_of_an_output_that_is_released_only_the_status_is_left(calls: Calls) -> None:
    call = made(calls)
    [item] = call.inputs.values()
    item.finish(api_pb2.GenericResult(status=_DONE.status, data=b"large"))
    assert call.finished(0, 0) == [item]
    item.release()
    assert call.finished(0, 0) == []
    assert item.output is not None
    assert item.output.result == _DONE


async def test_a_map_of_nothing_is_finished_when_it_is_closed(calls: Calls) -> None:
    call = calls.create("fu-1", open=True)
    assert not call.done
    call.close_inputs()
    assert call.done


async def test_a_map_whose_caller_is_gone_is_closed(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its app, or when nobody has asked for it for an hour."""
    stopped, forgotten, asked = (calls.create("fu-1", open=True) for _ in range(3))
    stopped.function_id = "fu-stopped"
    calls.close_inputs_of(lambda function_id: function_id == "fu-stopped")
    assert [call.done for call in (stopped, forgotten, asked)] == [True, False, False]
    monkeypatch.setattr(function_calls, "_FORGOTTEN_S", 0.05)
    await asyncio.sleep(0.06)
    calls.get(asked.call_id)
    calls.close_forgotten()
    assert [call.done for call in (forgotten, asked)] == [True, False]


async def test_results_count_once_however_often_their_call_finishes(calls: Calls) -> None:
    """A late input begins a call again."""
    call = made(calls)
    for idx in range(1, 4):
        finish(call)
        call.add(idx, api_pb2.FunctionInput())
    finish(call)
    assert calls._kept_bytes == call.kept_bytes
    calls.forget(call)
    assert calls._kept_bytes == 0

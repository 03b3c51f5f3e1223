"""Which calls are kept, and what of them."""

import asyncio

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.functions import function_calls
from workbench.local_cloud.functions.function_calls import Call, Calls

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
    finish(mapped)
    for _ in range(3):
        finish(made(calls))
    assert not calls.get(mapped.call_id).done
    mapped.close_inputs()
    assert calls.get(mapped.call_id).done


async def test_arguments_are_kept_until_there_is_an_output(calls: Calls) -> None:
    call = made(calls)
    [item] = call.inputs.values()
    assert item.payload.args == b"large"
    finish(call)
    assert item.payload.args == b""


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
    assert calls.undone() == [call]
    call.close_inputs()
    assert (call.done, calls.undone()) == (True, [])


async def test_a_map_whose_caller_is_gone_is_closed(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its app, or when nobody has asked for it for an hour."""
    stopped, forgotten, asked = (calls.create("fu-1", open=True) for _ in range(3))
    stopped.function_id = "fu-stopped"
    calls.close_inputs_of(lambda function_id: function_id == "fu-stopped")
    assert calls.undone() == [forgotten, asked]
    monkeypatch.setattr(function_calls, "_FORGOTTEN_S", 0.05)
    await asyncio.sleep(0.06)
    calls.get(asked.call_id)
    calls.close_forgotten()
    assert calls.undone() == [asked]

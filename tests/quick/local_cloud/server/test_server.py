"""What every call of the protocol is promised: a deadline, one answer for one key, and what it fails with."""

import asyncio
import errno
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from modal_proto import api_pb2, api_pb2_grpc, task_command_router_pb2_grpc
from modal_proto import task_command_router_pb2 as tcr

from tests.support.paths import ROOT
from workbench.local_cloud.base.credentials import Credentials
from workbench.local_cloud.server import grpc_server as module
from workbench.local_cloud.server import missing_calls
from workbench.local_cloud.server.callers import Authenticator
from workbench.local_cloud.server.grpc_server import RpcServer
from workbench.local_cloud.workspace.handshake import SDK_VERSION, SessionRpcs

WAIT_S = 20.0


class Counting:
    """Handlers that never end, and that count."""

    def __init__(self) -> None:
        self.calls = 0

    async def QueueLen(self, request: api_pb2.QueueLenRequest, context: Any) -> api_pb2.QueueLenResponse:
        await asyncio.sleep(3600)
        return api_pb2.QueueLenResponse()

    async def DictLen(self, request: api_pb2.DictLenRequest, context: Any) -> api_pb2.DictLenResponse:
        self.calls += 1
        return api_pb2.DictLenResponse(len=self.calls)

    async def DictUpdate(self, request: api_pb2.DictUpdateRequest, context: Any) -> api_pb2.DictUpdateResponse:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def DictClear(self, request: api_pb2.DictClearRequest, context: Any) -> empty_pb2.Empty:
        raise ValueError("a secret of the host")


class Slow:
    """A handler that takes a second."""

    async def SandboxWaitUntilReady(
        self, request: tcr.SandboxWaitUntilReadyTcrRequest, context: Any
    ) -> tcr.SandboxWaitUntilReadyTcrResponse:
        await asyncio.sleep(1)
        return tcr.SandboxWaitUntilReadyTcrResponse(ready_at=1)


@pytest.fixture
async def stub() -> AsyncIterator[tuple[api_pb2_grpc.ModalClientStub, tuple[tuple[str, str], ...]]]:
    token = Credentials.new()
    gate = Authenticator(token)
    server = RpcServer(gate, control=[Counting(), SessionRpcs(gate)], router=[])
    channel = grpc.insecure_channel(f"127.0.0.1:{await server.start([0])}")
    shown = (("x-modal-token-id", token.token_id), ("x-modal-token-secret", token.token_secret))
    yield api_pb2_grpc.ModalClientStub(channel), shown
    channel.close()
    await server.aclose(grace_s=0)


async def failure(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(call.result)
    return caught.value


async def test_a_full_disk_is_called_that(stub: Any) -> None:
    ask, shown = stub
    error = await failure(ask.DictUpdate.future(api_pb2.DictUpdateRequest(), metadata=shown, timeout=WAIT_S))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "the disk that holds the local cloud's state is full" in error.details()


async def test_a_call_that_is_not_done_in_time_is_ended(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNARY_DEADLINE_S", 0.2)
    ask, shown = stub
    error = await failure(ask.QueueLen.future(api_pb2.QueueLenRequest(), metadata=shown, timeout=WAIT_S))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "QueueLen did not finish within 0.2 s" in error.details()


async def test_a_call_whose_client_chooses_how_long_it_waits_may_take_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNARY_DEADLINE_S", 0.2)
    gate = Authenticator(Credentials.new())
    server = RpcServer(gate, control=[], router=[Slow()])
    with grpc.insecure_channel(f"127.0.0.1:{await server.start([0])}") as channel:
        ask = task_command_router_pb2_grpc.TaskCommandRouterStub(channel)
        shown = (("authorization", f"Bearer {gate.sign(task_id='ta-1')}"),)
        request = tcr.SandboxWaitUntilReadyTcrRequest(task_id="ta-1", timeout=WAIT_S)
        call = ask.SandboxWaitUntilReady.future(request, metadata=shown, timeout=WAIT_S)
        assert (await asyncio.to_thread(call.result)).ready_at == 1
        unbounded = await failure(ask.SandboxWaitUntilReady.future(request, metadata=shown))
        assert unbounded.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await server.aclose(grace_s=0)


async def test_who_asks_again_with_the_same_key_gets_the_same_answer(stub: Any) -> None:
    ask, shown = stub

    async def length(*key: tuple[str, str]) -> int:
        call = ask.DictLen.future(api_pb2.DictLenRequest(), metadata=(*shown, *key), timeout=WAIT_S)
        return int((await asyncio.to_thread(call.result)).len)

    one, other = ("x-idempotency-key", "one"), ("x-idempotency-key", "other")
    assert [await length(one), await length(one), await length(other), await length(one)] == [1, 1, 2, 1]
    assert [await length(), await length()] == [3, 4]


@pytest.mark.parametrize(("version", "warned"), [(SDK_VERSION, False), ("1.5.4", True), ("2.0.0", True)])
async def test_a_client_of_another_version_is_warned_by_name(stub: Any, version: str, warned: bool) -> None:
    ask, shown = stub
    metadata = (*shown, ("x-modal-client-version", version))
    hello = ask.ClientHello.future(empty_pb2.Empty(), metadata=metadata, timeout=WAIT_S)
    texts = [warning.message for warning in (await asyncio.to_thread(hello.result)).server_warnings]
    assert [version in text and SDK_VERSION in text for text in texts] == [True] * warned


async def test_a_token_tells_its_workspace_and_its_user(stub: Any) -> None:
    ask, shown = stub
    info = ask.TokenInfoGet.future(api_pb2.TokenInfoGetRequest(), metadata=shown, timeout=WAIT_S)
    found = await asyncio.to_thread(info.result)
    assert {found.workspace_id, found.workspace_name} == {"local"}
    assert (found.user_identity.user_id, found.user_identity.username) == ("local", "local")


async def test_a_defect_is_told_without_its_words(stub: Any) -> None:
    ask, shown = stub
    error = await failure(ask.DictClear.future(api_pb2.DictClearRequest(), metadata=shown, timeout=WAIT_S))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()


def test_what_to_do_instead_is_said_of_calls_that_there_are_and_that_are_missing() -> None:
    calls = {method.name for method in api_pb2.DESCRIPTOR.services_by_name["ModalClient"].methods}
    assert missing_calls.explained() <= calls
    code = "".join(path.read_text() for path in (ROOT / "workbench" / "local_cloud").rglob("*.py"))
    assert [name for name in missing_calls.explained() if f"async def {name}(" in code] == []


async def test_who_asks_for_a_token_is_told_how_to_get_it(stub: Any) -> None:
    """Whoever signs in has none yet."""
    ask, _ = stub
    refused = await failure(ask.TokenFlowCreate.future(api_pb2.TokenFlowCreateRequest(), timeout=WAIT_S))
    assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
    assert 'eval "$(workbench cloud env)"' in refused.details()


async def test_an_unknown_caller_and_a_missing_call_are_told_apart(stub: Any) -> None:
    ask, shown = stub
    unknown = await failure(ask.DictLen.future(api_pb2.DictLenRequest(), timeout=WAIT_S))
    assert unknown.code() is grpc.StatusCode.UNAUTHENTICATED
    missing = await failure(ask.AppList.future(api_pb2.AppListRequest(), metadata=shown, timeout=WAIT_S))
    assert (missing.code(), "AppList is not implemented" in missing.details()) == (
        grpc.StatusCode.UNIMPLEMENTED,
        True,
    )

"""What the queue RPCs promise about callers that go away, and about requests that the SDK never makes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from modal_proto import api_pb2, api_pb2_grpc

from workbench.local_cloud.base.credentials import Credentials
from workbench.local_cloud.objects import queue_rpc as module
from workbench.local_cloud.objects.queue_rpc import QueueRpcs
from workbench.local_cloud.objects.queues import Queues, Taken
from workbench.local_cloud.server.callers import Authenticator
from workbench.local_cloud.server.grpc_server import RpcServer
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.ephemeral import Ephemeral
from workbench.local_cloud.store.names import Objects

WAIT_S = 20.0


class Watched(Queues):
    """Queues that tell when a reader has taken something, before it is answered, and when that was put back."""

    on_take: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, database: Database, objects: Objects) -> None:
        super().__init__(database, objects)
        self.was_put_back = asyncio.Event()

    def take(self, queue_id: str, key: bytes, count: int) -> Taken | None:
        taken = super().take(queue_id, key, count)
        if taken is not None:
            self.on_take()
        return taken

    def put_back(self, taken: Taken) -> None:
        super().put_back(taken)
        self.was_put_back.set()


class Served:
    """The queue RPCs on a real server, with one queue and a client that shows the token."""

    def __init__(self, queues: Watched, queue_id: str, stub: api_pb2_grpc.ModalClientStub, token: Credentials) -> None:
        self.queues = queues
        self.queue_id = queue_id
        self.stub = stub
        self.metadata = (("x-modal-token-id", token.token_id), ("x-modal-token-secret", token.token_secret))

    def get(self, **fields: object) -> "grpc.Future":
        """Start a QueueGet."""
        request = api_pb2.QueueGetRequest(**{"queue_id": self.queue_id, "n_values": 1, **fields})
        return self.stub.QueueGet.future(request, metadata=self.metadata, timeout=WAIT_S)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    token = Credentials.new()
    database = Database(tmp_path / "cloud.sqlite")
    objects = Objects(database)
    queues = Watched(database, objects)
    rpcs = QueueRpcs(database, objects, Ephemeral(database), queues)
    queue_id, _ = objects.get_or_create(
        "queue", "qu", environment="", name="q", creation_type=api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
    )
    server = RpcServer(Authenticator(token), control=[rpcs], router=[])
    channel = grpc.insecure_channel(f"127.0.0.1:{await server.start([0])}")
    yield Served(queues, queue_id, api_pb2_grpc.ModalClientStub(channel), token)
    channel.close()
    await server.aclose(grace_s=0)
    database.close()


async def test_a_value_taken_for_a_caller_that_has_gone_is_put_back_in_its_place(served: Served) -> None:
    """The caller leaves between the take and the answer: the value is nobody's, so the next reader must get it."""
    served.queues.put(served.queue_id, b"", [b"first", b"second", b"third"])
    gone = threading.Event()
    call = served.get(n_values=2)
    call.add_done_callback(lambda _: gone.set())

    def leave() -> None:
        call.cancel()
        assert gone.wait(WAIT_S)
        threading.Event().wait(0.2)  # the server's loop stands still here; let the news reach its door

    served.queues.on_take = leave
    await asyncio.wait_for(served.queues.was_put_back.wait(), WAIT_S)
    assert call.cancelled()
    served.queues.on_take = lambda: None
    answer = await asyncio.to_thread(served.get(n_values=5).result)
    assert list(answer.values) == [b"first", b"second", b"third"]


async def test_a_reader_that_leaves_while_it_waits_takes_nothing(served: Served) -> None:
    call = served.get(timeout=WAIT_S)
    await asyncio.sleep(0.2)
    call.cancel()
    await asyncio.sleep(0.2)
    served.queues.put(served.queue_id, b"", [b"kept"])
    answer = await asyncio.to_thread(served.get().result)
    assert list(answer.values) == [b"kept"]


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), float("-inf")])
async def test_a_timeout_that_makes_no_sense_is_no_wait(served: Served, timeout: float) -> None:
    answer = await asyncio.to_thread(served.get(timeout=timeout).result)
    assert list(answer.values) == []


async def test_a_wait_is_bounded_whatever_is_asked_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAIT_S", 0.3)
    answer = await asyncio.to_thread(served.get(timeout=float("inf")).result)
    assert list(answer.values) == []


@pytest.mark.parametrize("count", [0, -1])
async def test_a_reader_asks_for_at_least_one_value(served: Served, count: int) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(served.get(n_values=count).result)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("last", ["x", "-1", "9" * 19, "\N{SUPERSCRIPT TWO}"])
async def test_an_entry_id_that_is_none_is_refused(served: Served, last: str) -> None:
    request = api_pb2.QueueNextItemsRequest(queue_id=served.queue_id, last_entry_id=last)
    call = served.stub.QueueNextItems.future(request, metadata=served.metadata, timeout=WAIT_S)
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(call.result)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

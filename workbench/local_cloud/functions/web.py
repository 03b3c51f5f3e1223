"""Web ingress: one loopback port per web function, each request one call of the function, bytes passed on as they come.

What an HTTP client sends is hostile; it is bounded here and parsed by the function. A function that dies in the middle
of a response breaks the connection: a cut stream never looks complete.
"""

import asyncio
import math
import pickle
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog
import uvicorn
from modal._serialization import deserialize_data_format, serialize_data_format
from modal_proto import api_pb2
from starlette.middleware.trustedhost import TrustedHostMiddleware

from workbench.local_cloud.apps import Apps
from workbench.local_cloud.clock import MAX_ADVANCE_S, Clock
from workbench.local_cloud.faults import FaultRule
from workbench.local_cloud.functions.calls import Call, Calls
from workbench.local_cloud.functions.pool import Pools
from workbench.local_cloud.injection import Hop, Injector
from workbench.local_cloud.ports import listen
from workbench.local_cloud.rpc.failures import RpcFailure

_log = structlog.get_logger(__name__)

HEADERS_TIMEOUT_S = 150.0  # Modal's: past it the client is sent to poll with GET
MAX_BODY_BYTES = 4 * 1024**3  # Modal's
_RESUME_PARAMETER = "__modal_function_call_id"
_STOP_S = 3.0
_WORKER_S = 60.0

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class StreamBrokenError(Exception):
    """The function ended in the middle of a response."""


class QuietServer(uvicorn.Server):
    """A uvicorn server that leaves signals to its owner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield


class Ingress:
    """Serves web functions; `read_blob` gives the bytes of chunks that were too large for one message."""

    def __init__(
        self,
        apps: Apps,
        calls: Calls,
        pools: Pools,
        clock: Clock,
        injector: Injector,
        *,
        read_blob: Callable[[str], bytes],
    ) -> None:
        self._apps = apps
        self._clock = clock
        self._injector = injector
        self._calls = calls
        self._pools = pools
        self._read_blob = read_blob
        self._servers: dict[tuple[str, str], tuple[uvicorn.Server, asyncio.Task[None]]] = {}
        self._waiting: dict[str, Call] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def serve(self, function_id: str, method: str = "") -> str:
        """Serve a function, or one method of a class, and return its URL. Idempotent.

        The port is the one it had before, or a free one.
        """
        if (function_id, method) not in self._servers:
            self._start(function_id, method, self._apps.port(function_id, method))
        return self.url(function_id, method)

    def url(self, function_id: str, method: str = "") -> str:
        """A served function's URL, or an empty string."""
        served = (function_id, method) in self._servers
        return f"http://127.0.0.1:{self._apps.port(function_id, method)}" if served else ""

    def serves(self, port: int) -> bool:
        """Whether a loopback port is a web function's now."""
        return any(self._apps.port(*key) == port for key in self._servers)

    async def drop(self, function_id: str) -> None:
        """Stop serving a function and its methods. Idempotent."""
        await asyncio.gather(*(self._drop(key) for key in list(self._servers) if key[0] == function_id))

    async def _drop(self, key: tuple[str, str]) -> None:
        entry = self._servers.pop(key, None)
        if entry is not None:
            server, task = entry
            server.should_exit = True
            _, pending = await asyncio.wait([task], timeout=_STOP_S)
            if pending:
                server.force_exit = True
                task.cancel()
                await asyncio.wait([task], timeout=_STOP_S)

    async def aclose(self) -> None:
        """Stop serving everything. Idempotent."""
        await asyncio.gather(*(self._drop(key) for key in list(self._servers)))
        for job in list(self._background):
            job.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=_STOP_S)

    def _start(self, function_id: str, method: str, port: int) -> None:
        listener = self._listener(port)
        self._apps.set_port(function_id, method, listener.getsockname()[1])

        async def app(scope: Message, receive: Receive, send: Send) -> None:
            await self._handle(function_id, method, scope, receive, send)

        guarded = TrustedHostMiddleware(app, allowed_hosts=["127.0.0.1", "localhost"])  # against DNS rebinding
        config = uvicorn.Config(
            guarded,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = QuietServer(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        self._servers[function_id, method] = (server, task)

    def _listener(self, port: int) -> socket.socket:
        try:
            return listen(port)
        except OSError:
            return listen(0)  # somebody else has the old port now: the URL changes, and `endpoint` tells it

    async def _handle(self, function_id: str, method: str, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        resumed = self._resumed(scope)
        if resumed is not None:
            call, start = resumed, None
            if scope["method"] != "GET":
                await _answer(send, 400, "modal-http: only GET may resume a request")
                return
        else:
            try:
                call = self._call(function_id, method, scope)
            except RpcFailure as error:
                await _answer(send, 404, f"modal-http: {error.message}")
                return
            start = asyncio.create_task(self._send_body(call, receive))
        try:
            rules = self._injector.on_web(function_id, scope["path"]) if self._injector.faults else []
            await (self._respond_badly(rules, call, scope, send) if rules else self._respond(call, scope, send))
        finally:
            if start is not None:
                start.cancel()
            if call.call_id not in self._waiting and not call.done:
                self._spawn(self._leave(call))

    def _resumed(self, scope: Message) -> Call | None:
        for pair in bytes(scope["query_string"]).split(b"&"):
            name, _, value = pair.partition(b"=")
            if name.decode("latin-1") == _RESUME_PARAMETER:
                return self._waiting.get(value.decode("latin-1"))
        return None

    def _call(self, function_id: str, method: str, scope: Message) -> Call:
        self._apps.function(function_id)
        passed = {
            "type": "http",
            "http_version": scope["http_version"],
            "method": scope["method"],
            "scheme": scope["scheme"],
            "path": scope["path"],
            "raw_path": scope.get("raw_path", b""),
            "query_string": scope["query_string"],
            "headers": [(bytes(name), bytes(value)) for name, value in scope["headers"]],
            "client": tuple(scope["client"]) if scope.get("client") else None,
            "server": tuple(scope["server"]) if scope.get("server") else None,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "root_path": "",
            "extensions": {},
        }
        call = self._calls.create(function_id)
        payload = api_pb2.FunctionInput(
            args=pickle.dumps(((passed,), {})),
            data_format=api_pb2.DATA_FORMAT_PICKLE,
            method_name=method,
        )
        self._pools.submit(call.add(0, payload))
        return call

    async def _send_body(self, call: Call, receive: Receive) -> None:
        """Pass the request's body on, and the client's leaving."""
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                message = {"type": "http.disconnect"}
            data = serialize_data_format(message, api_pb2.DATA_FORMAT_ASGI)
            await call.data_in.put(api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, data=data))
            if message["type"] == "http.disconnect":
                return

    async def _respond_badly(self, rules: list[FaultRule], call: Call, scope: Message, send: Send) -> None:
        """Respond as the rules of injected faults say."""
        await self._clock.sleep(sum(rule.delay_s for rule in rules))
        refused = next((rule.http_status for rule in rules if rule.http_status), None)
        if refused is not None:
            await _answer(send, refused, "modal-http: injected by a fault rule")
            return
        for rule in rules:
            if rule.kill or rule.preempt:
                await self._injector.harm_container(rule, await self._worker(call))
        answering = asyncio.ensure_future(self._respond(call, scope, Hop(send, rules, self._clock).send))
        cut_s = min((rule.cut_after_s for rule in rules if rule.cut_after_s is not None), default=math.inf)
        try:
            await self._clock.first(asyncio.shield(answering), timeout_s=min(cut_s, MAX_ADVANCE_S))
            if not answering.done():
                raise StreamBrokenError
            answering.result()
        finally:
            answering.cancel()

    async def _worker(self, call: Call) -> str:
        """The container that works on a call, once there is one."""
        item = next(iter(call.inputs.values()))
        deadline = self._clock.monotonic() + _WORKER_S
        while not item.task_id and item.output is None and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.01)
        return item.task_id

    async def _respond(self, call: Call, scope: Message, send: Send) -> None:
        messages = self._messages(call)
        first = asyncio.ensure_future(anext(messages, None))
        await self._clock.first(first, timeout_s=HEADERS_TIMEOUT_S)
        if not first.done():
            self._waiting[call.call_id] = call
            await self._redirect(call, scope, send)
            return
        self._waiting.pop(call.call_id, None)
        message = first.result()
        if message is None:
            await _answer(send, 500, "modal-http: the function failed before it answered; see `modal app logs`")
            return
        complete = False
        while message is not None:
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body")
            message = await anext(messages, None)
        if not complete:
            _log.warning("web.stream_broken", function_id=call.function_id)
            raise StreamBrokenError

    async def _messages(self, call: Call) -> Any:
        async for chunk in call.data_out.read():
            data = (
                self._read_blob(chunk.data_blob_id) if chunk.WhichOneof("data_oneof") == "data_blob_id" else chunk.data
            )
            if chunk.data_format == api_pb2.DATA_FORMAT_ASGI:
                yield deserialize_data_format(data, chunk.data_format, None)

    async def _redirect(self, call: Call, scope: Message, send: Send) -> None:
        location = f"{scope['path']}?{_RESUME_PARAMETER}={call.call_id}".encode()
        await send({"type": "http.response.start", "status": 303, "headers": [(b"location", location)]})
        await send({"type": "http.response.body", "body": b""})

    async def _leave(self, call: Call) -> None:
        """Tell the function that its client has gone, and let it end in its own time without being held up."""
        data = serialize_data_format({"type": "http.disconnect"}, api_pb2.DATA_FORMAT_ASGI)
        await call.data_in.put(api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, data=data))
        async for _ in call.data_out.read():
            pass
        self._calls.forget(call)

    def _spawn(self, work: Any) -> None:
        job = asyncio.ensure_future(work)
        self._background.add(job)
        job.add_done_callback(self._background.discard)


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})

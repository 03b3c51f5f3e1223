"""Web ingress: one loopback port per web function. Each request and each WebSocket is one call of the function.

Bytes are passed on as they come. What a client sends is not trusted: its size is limited here, and the function parses
it. When a function ends in the middle of a response, the connection is broken off, so that the client sees the failure.
"""

import asyncio
import math
import socket
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakValueDictionary

import structlog
import uvicorn
from modal_proto import api_pb2
from starlette.middleware.trustedhost import TrustedHostMiddleware

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.base.clock import MAX_ADVANCE_S
from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.base.errors import CloudError, not_found
from workbench.local_cloud.base.ports import listen
from workbench.local_cloud.base.quiet_server import QuietServer
from workbench.local_cloud.faults.injection import Injector, SlowedResponse
from workbench.local_cloud.faults.rules import Fired
from workbench.local_cloud.functions.asgi_scopes import (
    SERVED,
    Message,
    Receive,
    Send,
    answer,
    as_chunk,
    as_input,
    as_message,
    close,
    disconnected,
    is_disconnect,
    is_last,
    is_websocket,
    size,
)
from workbench.local_cloud.functions.function_calls import Call, Calls
from workbench.local_cloud.functions.pool import Pools

_log = structlog.get_logger(__name__)

HEADERS_TIMEOUT_S = 150.0  # Modal's; after it the client is redirected (303) to poll with GET
MAX_BODY_BYTES = 4 * 1024**3  # Modal's
MAX_WEBSOCKET_MESSAGE_BYTES = 2 * 1024**2  # Modal's; a larger one closes the connection with 1009
_RESUME_PARAMETER = "__modal_function_call_id"
_STOP_S = 3.0
_WORKER_S = 60.0  # the longest wait for a container to harm, with a fault rule


Headers = Iterable[tuple[bytes, bytes]]


class StreamBrokenError(Exception):
    """The function ended in the middle of a response; uvicorn then closes the connection."""


class Ingress:
    """Serves web functions, each at a loopback port of its own."""

    def __init__(
        self,
        apps: Apps,
        calls: Calls,
        pools: Pools,
        clocks: Clocks,
        injector: Injector,
        *,
        read_blob: Callable[[str], bytes],
        refusal: Callable[[str, Headers], str | None],
    ) -> None:
        """Take the parts that serving needs.

        `read_blob` returns the bytes of a blob's id, for chunks that were too large for one message. `refusal` returns
        why a request with these headers to a guarded function of an environment is refused, None when it is not.
        """
        self._refusal = refusal
        self._apps = apps
        self._clocks = clocks
        self._injector = injector
        self._calls = calls
        self._pools = pools
        self._read_blob = read_blob
        self._servers: dict[tuple[str, str], tuple[uvicorn.Server, asyncio.Task[None]]] = {}
        self._waiting: WeakValueDictionary[str, Call] = WeakValueDictionary()  # as long as they are kept
        self._background: set[asyncio.Task[None]] = set()

    async def serve(self, function_id: str, method: str = "") -> str:
        """Serve a function, or one method of a class, and return its URL. Idempotent.

        The port is the one that the function had before, or a free one.
        """
        if (function_id, method) not in self._servers:
            self._start(function_id, method, self._apps.port(function_id, method))
        return self.url(function_id, method)

    def url(self, function_id: str, method: str = "") -> str:
        """Return a served function's URL, or an empty string when it is not served."""
        served = (function_id, method) in self._servers
        return f"http://127.0.0.1:{self._apps.port(function_id, method)}" if served else ""

    def serves(self, port: int) -> bool:
        """Whether a web function is served at this loopback port now."""
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
            ws="websockets-sansio",
            ws_max_size=MAX_WEBSOCKET_MESSAGE_BYTES,
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
            return listen(0)  # another program has the old port: the function gets a new URL, which `url` returns

    async def _handle(self, function_id: str, method: str, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in SERVED:
            return
        try:
            refusal = self._refused(function_id, method, scope["headers"])
        except CloudError as error:
            await answer(scope, send, 404, f"modal-http: {error.message}")
            return
        if refusal is not None:
            await answer(scope, send, 401, f"modal-http: {refusal}")
            return
        resumed = self._resumed(scope)
        if resumed is not None:
            call, start = resumed, None
            if scope["method"] != "GET":
                await answer(scope, send, 400, f"modal-http: only GET may resume a request, not {scope['method'][:20]}")
                return
        else:
            call = self._calls.create(function_id)
            self._pools.submit(call.add(0, as_input(scope, method)))
            start = asyncio.create_task(self._send_on(call, scope, receive))
        try:
            fired = self._injector.on_web(function_id, scope["path"]) if self._injector.faults else []
            await (self._respond_with_faults(fired, call, scope, send) if fired else self._respond(call, scope, send))
        finally:
            if start is not None:
                start.cancel()
            if call.call_id not in self._waiting:
                if call.done:
                    self._calls.forget(call)  # nobody else knows it
                else:
                    self._spawn(self._leave(call, scope))

    def _refused(self, function_id: str, method: str, headers: Headers) -> str | None:
        """Return why a request is refused, None when it is not; raises CloudError NOT_FOUND unless a web function."""
        function = self._apps.function(function_id)
        config = function.method_definitions[method].webhook_config if method else function.webhook_config
        if not config.type:
            raise not_found("the function at this address is not a web function: deploy it again, or use its new URL")
        if not config.requires_proxy_auth:
            return None
        return self._refusal(self._apps.app_of(function_id).environment, headers)

    def _resumed(self, scope: Message) -> Call | None:
        if is_websocket(scope):
            return None
        for pair in bytes(scope["query_string"]).split(b"&"):
            name, _, value = pair.partition(b"=")
            if name.decode("latin-1") == _RESUME_PARAMETER:
                return self._waiting.get(value.decode("latin-1"))
        return None

    async def _send_on(self, call: Call, scope: Message, receive: Receive) -> None:
        """Pass on what the client sends, up to its disconnect; too large a body counts as a disconnect."""
        received = 0
        while True:
            message = await receive()
            received += 0 if is_websocket(scope) else size(message)
            if received > MAX_BODY_BYTES:
                message = disconnected(scope)
            await call.data_in.put(as_chunk(message))
            if is_disconnect(message):
                return

    async def _respond_with_faults(self, fired: list[Fired], call: Call, scope: Message, send: Send) -> None:
        """Respond with the faults of these rules. Raises StreamBrokenError where one cuts the connection."""
        rules = [one.rule for one in fired]
        clock = self._clocks.of_function(call.function_id)
        await clock.sleep(sum(rule.delay_s for rule in rules))
        refused = next((rule.http_status for rule in rules if rule.http_status), None)
        if refused is not None:
            await answer(scope, send, refused, "modal-http: injected by a fault rule")
            return
        for one in fired:
            if one.rule.ends_something:
                await self._injector.harm_container(one, await self._worker(call))
        slowed = SlowedResponse(send, rules, clock)
        answering = asyncio.ensure_future(self._respond(call, scope, slowed.send))
        cut_s = min((rule.cut_after_s for rule in rules if rule.cut_after_s is not None), default=math.inf)
        try:
            await clock.first(asyncio.shield(answering), slowed.idle(), timeout_s=min(cut_s, MAX_ADVANCE_S))
            if not answering.done():
                raise StreamBrokenError
            answering.result()
        finally:
            answering.cancel()

    async def _worker(self, call: Call) -> str:
        """Return the task id of the container that works on a call; waits up to 60 s for it, then returns ""."""
        item = next(iter(call.inputs.values()))
        clock = self._clocks.of_function(call.function_id)
        deadline = clock.monotonic() + _WORKER_S
        while not item.task_id and item.output is None and clock.monotonic() < deadline:
            await clock.sleep(0.01)
        return item.task_id

    async def _respond(self, call: Call, scope: Message, send: Send) -> None:
        messages = self._messages(call)
        first = asyncio.ensure_future(anext(messages, None))
        await self._clocks.of_function(call.function_id).first(first, timeout_s=HEADERS_TIMEOUT_S)
        if not first.done():
            await self._redirect_to_poll(call, scope, send)
            return
        self._waiting.pop(call.call_id, None)
        message = first.result()
        if message is None:
            await answer(scope, send, 500, "modal-http: the function failed before it answered: see `modal app logs`")
            return
        complete = False
        while message is not None:
            await send(message)
            complete = is_last(message)
            message = await anext(messages, None)
        if not complete and is_websocket(scope):
            await close(send, failed=not _succeeded(call))
        elif not complete:
            _log.warning("web.stream_broken", function_id=call.function_id)
            raise StreamBrokenError

    async def _redirect_to_poll(self, call: Call, scope: Message, send: Send) -> None:
        """Redirect a client to poll with GET for the answer; a WebSocket, which cannot do that, is refused with 504."""
        if is_websocket(scope):
            await answer(
                scope, send, 504, f"modal-http: the function did not accept the WebSocket in {HEADERS_TIMEOUT_S:g} s"
            )
            return
        self._waiting[call.call_id] = call
        location = bytes(scope["raw_path"]) + f"?{_RESUME_PARAMETER}={call.call_id}".encode()
        await send({"type": "http.response.start", "status": 303, "headers": [(b"location", location)]})
        await send({"type": "http.response.body", "body": b""})

    async def _messages(self, call: Call) -> Any:
        async for chunk in call.data_out.read():
            data = (
                self._read_blob(chunk.data_blob_id) if chunk.WhichOneof("data_oneof") == "data_blob_id" else chunk.data
            )
            if chunk.data_format == api_pb2.DATA_FORMAT_ASGI and (message := as_message(data)) is not None:
                yield message

    async def _leave(self, call: Call, scope: Message) -> None:
        """Tell the function that its client has disconnected, and read what it still sends until it ends."""
        await call.data_in.put(as_chunk(disconnected(scope)))
        async for _ in call.data_out.read():
            pass
        self._calls.forget(call)

    def _spawn(self, work: Any) -> None:
        job = asyncio.ensure_future(work)
        self._background.add(job)
        job.add_done_callback(self._background.discard)


def _succeeded(call: Call) -> bool:
    return all(
        item.output is not None and item.output.result.status == api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
        for item in call.inputs.values()
    )

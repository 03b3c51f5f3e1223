"""Serves the two gRPC services on one loopback port, from handlers grouped by noun.

Every method of the protocol is registered: one without a handler answers UNIMPLEMENTED with its name. Each call is
authenticated here, before its handler runs; a handler's CloudError becomes the status, any other exception a bare
INTERNAL whose details stay in the log.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf import empty_pb2, message_factory
from google.protobuf.message import Message
from grpc import StatusCode
from modal_proto import api_pb2, task_command_router_pb2

from workbench.errors import WorkbenchError
from workbench.local_cloud.base.errors import CloudError, Reason
from workbench.local_cloud.faults.injection import Injector
from workbench.local_cloud.faults.protocol import At
from workbench.local_cloud.server import statuses
from workbench.local_cloud.server.callers import Authenticator, Caller, caller, metadata
from workbench.local_cloud.server.missing_calls import WITHOUT_A_TOKEN, refusal
from workbench.local_cloud.server.repeated_calls import Answers, Key
from workbench.local_cloud.store.damage import is_damage, is_disk_full

_log = structlog.get_logger(__name__)

# The longest that a unary call may take; calls that wait for something do so for a minute at most, except those of
# `_OWN_DEADLINES`. A stream has no deadline: it ends with what it streams. Both end when the client goes away.
UNARY_DEADLINE_S = 120.0
_LONGEST_DEADLINE_S = 24 * 3600.0  # no sandbox lives longer
_MARGIN_S = 5.0  # so that the handler's or the client's own timeout, which says more, comes first
MAX_MESSAGE_BYTES = 128 * 1024 * 1024  # the SDK's own limit for one message
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second cloud on the same port must fail, not share it
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
)


def _as_long_as_the_client_waits(request: Any, context: Any) -> float:
    remaining_s: float | None = context.time_remaining()
    return UNARY_DEADLINE_S if remaining_s is None else remaining_s + _MARGIN_S


# By RPC: how long, in seconds, a call may take by its request and context; at least UNARY_DEADLINE_S, and at most
# _LONGEST_DEADLINE_S. The SDK sends the timeouts of these as the deadlines of their calls.
_OWN_DEADLINES: dict[str, Callable[[Any, Any], float]] = {
    "SandboxWaitUntilReady": _as_long_as_the_client_waits,
    "TaskReloadVolumes": _as_long_as_the_client_waits,
    "TaskSnapshotDirectory": _as_long_as_the_client_waits,
    "TaskSnapshotFilesystem": _as_long_as_the_client_waits,
}


@dataclass
class Coverage:
    """The RPCs of the protocol that this cloud has, those that it has not, and how often each of these was called."""

    implemented: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    asked_for: Counter[str] = field(default_factory=Counter)


class PortInUseError(WorkbenchError):
    """None of the ports that were tried could be bound."""


class RpcServer:
    """The cloud's gRPC server: the control plane (`ModalClient`) and the task command router, on one port."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        control: Iterable[object],
        router: Iterable[object],
        injector: Injector | None = None,
    ) -> None:
        """`control` and `router` are the objects whose methods, named as RPCs, handle the two services.

        `injector` injects faults by rule; without it there are none.
        """
        self._authenticator = authenticator
        self._injector = injector
        self.coverage = Coverage()
        self._answers = Answers()
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers(
            (
                self._service(api_pb2.DESCRIPTOR.services_by_name["ModalClient"], control, authenticator.identify),
                self._service(
                    task_command_router_pb2.DESCRIPTOR.services_by_name["TaskCommandRouter"],
                    router,
                    authenticator.identify_router,
                ),
            )
        )

    async def start(self, ports: Sequence[int]) -> int:
        """Listen on 127.0.0.1 at the first of `ports` that is free (0: any free one), and return it.

        Raises PortInUseError when none is free.
        """
        for port in ports:
            try:
                bound = self._server.add_insecure_port(f"127.0.0.1:{port}")
            except RuntimeError:
                continue
            await self._server.start()
            return bound
        raise PortInUseError(f"port {ports[-1]} on 127.0.0.1 is in use: choose another with --port")

    async def aclose(self, *, grace_s: float = 0.5) -> None:
        """Stop accepting calls, and cancel those that still run after `grace_s` seconds."""
        await self._server.stop(grace_s)

    def _service(
        self, service: Any, groups: Iterable[object], identify: Callable[[dict[str, str]], Caller]
    ) -> "grpc.GenericRpcHandler[Any, Any]":
        members = list(groups)
        methods = {}
        for method in service.methods:
            handler = next((getattr(group, method.name) for group in members if hasattr(group, method.name)), None)
            (self.coverage.implemented if handler is not None else self.coverage.missing).append(method.name)
            request_class: type[Message] = message_factory.GetMessageClass(method.input_type)
            make = {
                (False, False): grpc.unary_unary_rpc_method_handler,
                (False, True): grpc.unary_stream_rpc_method_handler,
                (True, False): grpc.stream_unary_rpc_method_handler,
                (True, True): grpc.stream_stream_rpc_method_handler,
            }[(method.client_streaming, method.server_streaming)]
            wrap = self._streaming if method.server_streaming else self._unary
            methods[method.name] = make(
                wrap(method.name, handler, identify),
                request_deserializer=request_class.FromString,
                response_serializer=_serialize,
            )
        return grpc.method_handlers_generic_handler(service.full_name, methods)

    def _admit(
        self, name: str, handler: object, call_metadata: dict[str, str], identify: Callable[[dict[str, str]], Caller]
    ) -> None:
        if handler is not None or name not in WITHOUT_A_TOKEN:
            who = identify(call_metadata)
            caller.set(who)
            who.check(name)
        if handler is None:
            self.coverage.asked_for[name] += 1
            _log.warning("rpc.unimplemented", rpc=name)
            raise CloudError(Reason.UNIMPLEMENTED, refusal(name))

    async def _answer(
        self,
        name: str,
        handler: Callable[[Any, Any], Awaitable[Message]],
        request: Message,
        context: Any,
        call_metadata: dict[str, str],
    ) -> Message:
        key = _key(name, call_metadata)
        answer = self._answers.find(key) if key is not None else None
        if answer is None:
            await self._harm("call", name, request)
            answer = await handler(request, context)
            if key is not None:
                self._answers.keep(key, answer)
        await self._harm("answer", name, request)
        return answer

    async def _harm(self, at: At, name: str, request: Message) -> None:
        if self._injector is not None:
            await self._injector.on_call(at, name, request)

    def _unary(
        self,
        name: str,
        handler: Callable[[Any, Any], Awaitable[Message]] | None,
        identify: Callable[[dict[str, str]], Caller],
    ) -> Callable[[Any, Any], Awaitable[Message]]:
        async def call(request: Any, context: Any) -> Message:
            try:
                call_metadata = metadata(context)
                self._admit(name, handler, call_metadata, identify)
                assert handler is not None
                deadline_s = _deadline_s(name, request, context)
                limit = asyncio.timeout(deadline_s)
                try:
                    async with limit:
                        return await self._answer(name, handler, request, context, call_metadata)
                except TimeoutError as error:
                    if not limit.expired():
                        raise
                    late = f"{name} did not finish within {deadline_s:g} s and was cancelled: try again."
                    raise CloudError(Reason.DEADLINE_EXCEEDED, late) from error
            except Exception as error:  # the boundary: everything becomes a status
                await _abort(name, context, error)
                raise AssertionError("abort always raises") from error

        return call

    def _streaming(
        self,
        name: str,
        handler: Callable[[Any, Any], AsyncIterator[Message]] | None,
        identify: Callable[[dict[str, str]], Caller],
    ) -> Callable[[Any, Any], AsyncIterator[Message]]:
        async def call(request: Any, context: Any) -> AsyncIterator[Message]:
            try:
                self._admit(name, handler, metadata(context), identify)
                assert handler is not None
                await self._harm("call", name, request)
                stream = handler(request, context)
                injector = self._injector if self._injector is not None and self._injector.faults else None
                async for response in injector.on_stream(name, request, stream) if injector else stream:
                    yield response
            except Exception as error:  # noqa: BLE001  # the boundary: everything becomes a status
                await _abort(name, context, error)

        return call


def _deadline_s(name: str, request: Any, context: Any) -> float:
    own = _OWN_DEADLINES.get(name)
    wanted = own(request, context) if own is not None else 0.0
    return min(max(wanted, UNARY_DEADLINE_S), _LONGEST_DEADLINE_S)


def _key(name: str, call_metadata: dict[str, str]) -> Key | None:
    given = call_metadata.get("x-idempotency-key")
    who = caller.get()
    return (f"{who.kind} {who.task_id or ''}", name, given) if given else None


def _serialize(message: Message | None) -> bytes:
    data: bytes = (empty_pb2.Empty() if message is None else message).SerializeToString()
    return data


async def _abort(name: str, context: Any, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError | asyncio.CancelledError):
        raise error
    if isinstance(error, CloudError):
        await context.abort(statuses.GRPC[error.reason], error.message, statuses.trailing_metadata(error))
    if is_disk_full(error):
        _log.error("rpc.disk_full", rpc=name, exc_info=error)
        await context.abort(
            StatusCode.FAILED_PRECONDITION,
            f"{name} failed: the disk that holds the local cloud's state is full. Make room there and try again.",
        )
    _log.error("rpc.failed", rpc=name, exc_info=error)
    if is_damage(error):
        await context.abort(
            StatusCode.DATA_LOSS,
            f"{name} failed: the local cloud's database is damaged. Restart the cloud: it moves damaged files aside "
            "and says where they are.",
        )
    await context.abort(
        StatusCode.INTERNAL, f"{name} failed inside the local cloud: cloud.log in its state directory has the cause."
    )

"""HTTP requests and WebSockets as ASGI has them: what of a scope a function is told, and the words that differ."""

import pickle
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from modal._serialization import serialize_data_format
from modal_proto import api_pb2

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SERVED = ("http", "websocket")
_ABNORMAL = 1006  # RFC 6455: the connection was lost
_FAILED = 1011  # RFC 6455: the server met an error


def is_websocket(scope: Message) -> bool:
    """Whether a connection is a WebSocket rather than one request."""
    return bool(scope["type"] == "websocket")


def as_input(scope: Message, method: str) -> api_pb2.FunctionInput:
    """What a web function gets to know of a connection; `method` is a class's."""
    own = ("subprotocols",) if is_websocket(scope) else ("method",)
    passed = {
        **{name: scope[name] for name in ("type", "http_version", "scheme", "path", "query_string", *own)},
        "raw_path": scope.get("raw_path", b""),
        "headers": [(bytes(name), bytes(value)) for name, value in scope["headers"]],
        "client": tuple(scope["client"]) if scope.get("client") else None,
        "server": tuple(scope["server"]) if scope.get("server") else None,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "root_path": "",
        "extensions": {},
    }
    return api_pb2.FunctionInput(
        args=pickle.dumps(((passed,), {})), data_format=api_pb2.DATA_FORMAT_PICKLE, method_name=method
    )


def as_chunk(message: Message) -> api_pb2.DataChunk:
    """A message of the client's on its way to the function."""
    data = serialize_data_format(message, api_pb2.DATA_FORMAT_ASGI)
    return api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, data=data)


def disconnected(scope: Message) -> Message:
    """The client has gone."""
    return {"type": "websocket.disconnect", "code": _ABNORMAL} if is_websocket(scope) else {"type": "http.disconnect"}


def is_disconnect(message: Message) -> bool:
    """Whether the client says nothing after this."""
    return message["type"] in ("http.disconnect", "websocket.disconnect")


def size(message: Message) -> int:
    """How many bytes or characters a client's message brings."""
    return sum(len(message.get(name) or b"") for name in ("body", "bytes", "text"))


def is_last(message: Message) -> bool:
    """Whether a function's answer is complete with this."""
    ends = message["type"] in ("http.response.body", "websocket.http.response.body") and not message.get("more_body")
    return ends or message["type"] == "websocket.close"


async def answer(scope: Message, send: Send, status: int, text: str) -> None:
    """Answer in place of the function; a WebSocket that is not open yet is refused with it."""
    prefix = "websocket." if is_websocket(scope) else ""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": f"{prefix}http.response.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": text.encode()})


async def close(send: Send, *, failed: bool) -> None:
    """End a WebSocket that its function has left open."""
    await send({"type": "websocket.close", "code": _FAILED if failed else 1000})

"""HTTP requests and WebSockets in ASGI: turns their scopes and messages into a web function's input."""

import pickle
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from modal_proto import api_pb2

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SERVED = ("http", "websocket")
_ABNORMAL = 1006  # RFC 6455, 7.4.1: the connection was lost
_FAILED = 1011  # the server had an error, by the IANA registry of RFC 6455's close codes


def is_websocket(scope: Message) -> bool:
    """Whether a scope is that of a WebSocket rather than of an HTTP request."""
    return bool(scope["type"] == "websocket")


def as_input(scope: Message, method: str) -> api_pb2.FunctionInput:
    """Return the input of a web function for a scope; `method` names the method of a class, else it is empty."""
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
    """Return a message of the client as a chunk of the call's input data."""
    wire = api_pb2.Asgi()
    part = getattr(wire, message["type"].replace(".", "_"))
    part.SetInParent()
    for field in part.DESCRIPTOR.fields:
        if message.get(field.name) is not None:
            setattr(part, field.name, message[field.name])
    return api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, data=wire.SerializeToString(deterministic=True))


def as_message(data: bytes) -> Message | None:
    """Return a message of the function from the data of a chunk; None for one that ASGI's core does not know.

    Raises google.protobuf.message.DecodeError.
    """
    wire = api_pb2.Asgi.FromString(data)
    kind = wire.WhichOneof("type")
    if kind is None:
        return None
    part = getattr(wire, kind)
    message: Message = {"type": kind.replace("_", ".")}
    for field in part.DESCRIPTOR.fields:
        if not field.has_presence or part.HasField(field.name):
            value = getattr(part, field.name)
            message[field.name] = list(zip(value[::2], value[1::2], strict=False)) if field.name == "headers" else value
    return message


def disconnected(scope: Message) -> Message:
    """Return the message that says that the client has disconnected."""
    return {"type": "websocket.disconnect", "code": _ABNORMAL} if is_websocket(scope) else {"type": "http.disconnect"}


def is_disconnect(message: Message) -> bool:
    """Whether a message is the client's last one, its disconnect."""
    return message["type"] in ("http.disconnect", "websocket.disconnect")


def size(message: Message) -> int:
    """Return how many bytes (of a body) or characters (of a text) a client's message has."""
    return sum(len(message.get(name) or b"") for name in ("body", "bytes", "text"))


def is_last(message: Message) -> bool:
    """Whether this is the last message of a function's answer."""
    ends = message["type"] in ("http.response.body", "websocket.http.response.body") and not message.get("more_body")
    return ends or message["type"] == "websocket.close"


async def answer(scope: Message, send: Send, status: int, text: str) -> None:
    """Send an answer in place of the function; for a WebSocket, which must not be accepted yet, it is the refusal."""
    prefix = "websocket." if is_websocket(scope) else ""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": f"{prefix}http.response.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": text.encode()})


async def close(send: Send, *, failed: bool) -> None:
    """Close a WebSocket that its function has left open, with status 1011 if `failed`, else 1000."""
    await send({"type": "websocket.close", "code": _FAILED if failed else 1000})

"""Serves a script over HTTP on loopback. It owns its socket and its server task; `aclose` ends both and every answer.

It refuses to serve any other address, because the script's commands are run by whichever Claude CLI uses it.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self

import uvicorn
from pydantic import JsonValue, SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from workbench.local_cloud import QuietServer
from workbench.scripted_model import frames
from workbench.scripted_model.frames import Answer
from workbench.scripted_model.lending import Answered, Lending
from workbench.scripted_model.lending_routes import LendingRoutes
from workbench.scripted_model.script import BEFORE_HEADERS, Fault, Script, ScriptError, Turn, answers

MAX_BODY_BYTES = 32 * 1024 * 1024  # the limit of the real service
MAX_ASKED = 1000  # remembered requests; one of the CLI has about 50 KB
PING_S = 0.2  # between the pings of `pings_forever`; the real service's are seconds apart, but tests are short
_SHUTDOWN_S = 1
_SESSION_HEADER = "x-claude-code-session-id"
_HIDDEN = frozenset({"x-api-key", "authorization"})
_HANG_UP_WITH_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Asked:
    """A request that was received, without its credential; `accepted` says whether the credential was right."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: JsonValue
    accepted: bool


class ScriptedModel:
    """A Messages API on loopback, for the duration of an `async with`.

    `key` is the only credential that it accepts; one is generated if it is not given. `asked` holds the last requests.
    Whoever shows `control` may lend it other scripts for a while; without one, nobody may.
    """

    def __init__(
        self,
        script: Script,
        *,
        key: SecretStr | None = None,
        control: SecretStr | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"{host} is not a loopback address: a scripted model serves this machine alone")
        self.key = key or SecretStr(f"sk-scripted-{secrets.token_urlsafe(24)}")
        self.asked: list[Asked] = []
        self._script = script
        self._lending = Lending()
        self._control = control
        self._address = (host, port)
        self._attempts: Counter[str] = Counter()
        self._closing = asyncio.Event()
        self._listener: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The base URL, to be set as ANTHROPIC_BASE_URL."""
        assert self._listener is not None, "the scripted model is not serving"
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._listener = socket.create_server(self._address, family=family, backlog=128)
        routes = [
            Route("/v1/messages", self._messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
        ]
        if self._control is not None:
            routes += LendingRoutes(self._lending, self._control).routes
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._unknown})
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=_SHUTDOWN_S
        )
        self._server = QuietServer(config)
        try:
            self._serving = await self._server.begin(self._listener)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop serving, and end answers that hang on purpose. Idempotent."""
        self._closing.set()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait([self._serving], timeout=_SHUTDOWN_S + 5)
            self._serving.cancel()
            with suppress(asyncio.CancelledError):
                await self._serving
        if self._listener is not None:
            self._listener.close()

    async def _messages(self, request: Request) -> Response:
        body = await self._take(request)
        if isinstance(body, Response):
            return body
        messages = body.get("messages")
        if not isinstance(messages, list):
            return _refusal(400, "messages: Field required")
        streams = body.get("stream") is True
        try:
            chosen = self._lending.choose(messages, request.headers.get(_SESSION_HEADER, ""), streams=streams)
            turn = chosen.turn if chosen is not None else self._script.find(messages)
        except ScriptError as error:
            return _refusal(400, str(error))
        note = chosen.note if chosen is not None else None
        key = _conversation(request, messages)
        attempt = self._attempts[key]
        self._attempts[key] += 1
        fault = turn.fault_of(attempt, streams=streams)
        if fault is not None and fault.kind in BEFORE_HEADERS:
            if note is not None:
                note.struck(fault.kind)
            return await self._fail_before_headers(request, fault)
        answer = Answer(turn, self._model(body), f"{key}/{attempt}", self._input_tokens(turn, body))
        if not streams:
            if note is not None:
                note.told = True
            return JSONResponse(answer.message(), headers=_request_id())
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", **_request_id()}
        return StreamingResponse(self._play(request, answer, fault, note), headers=headers)

    async def _count_tokens(self, request: Request) -> Response:
        body = await self._take(request)
        if isinstance(body, Response):
            return body
        return JSONResponse({"input_tokens": frames.tokens(json.dumps(body).encode())}, headers=_request_id())

    async def _unknown(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        self._remember(request, None)
        return _refusal(error.status_code, f"{request.method} {request.url.path} is not part of the scripted model")

    async def _take(self, request: Request) -> dict[str, JsonValue] | Response:
        """The request's parsed body, or the error answer that refuses it."""
        raw = bytearray()
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > MAX_BODY_BYTES:
                return _refusal(413, "the request is too large")
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        if not self._remember(request, body):
            return _refusal(401, "invalid x-api-key")
        return body if isinstance(body, dict) else _refusal(400, "the request body is not a JSON object")

    def _remember(self, request: Request, body: JsonValue) -> bool:
        accepted = self._accepts(request)
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers = {name: value for name, value in request.headers.items() if name not in _HIDDEN}
        self.asked.append(Asked(request.method, path, MappingProxyType(headers), body, accepted))
        del self.asked[:-MAX_ASKED]
        return accepted

    def _accepts(self, request: Request) -> bool:
        shown = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(shown.encode(), self.key.get_secret_value().encode())

    def _model(self, body: dict[str, JsonValue]) -> str:
        return self._script.model or str(body.get("model", "scripted"))

    def _input_tokens(self, turn: Turn, body: dict[str, JsonValue]) -> int:
        return turn.input_tokens if turn.input_tokens is not None else frames.tokens(json.dumps(body).encode())

    async def _fail_before_headers(self, request: Request, fault: Fault) -> Response:
        match fault.kind:
            case "hang_before_headers":
                await self._hang(request)
                return _refusal(504, "the scripted model was closed")
            case "reset_before_headers":
                self._hang_up(request, reset=True)
                return Response()  # the client has gone
            case _:
                headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
                return JSONResponse(frames.error(fault), fault.status, {**headers, **_request_id()})

    async def _play(
        self, request: Request, answer: Answer, fault: Fault | None, note: Answered | None
    ) -> AsyncIterator[bytes]:
        deltas = 0
        for frame in answer.frames():
            if frames.is_delta(frame):
                if answer.turn.pace_ms and deltas:
                    await asyncio.sleep(answer.turn.pace_ms / 1000)
                if fault is not None and deltas == fault.after_deltas:
                    if note is not None:
                        note.struck(fault.kind)
                    async for piece in self._break(request, fault):
                        yield piece
                    return
                deltas += 1
            yield frames.sse(frames.stamped(frame) if answer.turn.stamped else frame)
        if note is not None:
            note.told = True

    async def _break(self, request: Request, fault: Fault) -> AsyncIterator[bytes]:
        match fault.kind:
            case "hang_mid_stream":
                await self._hang(request)
            case "pings_forever":
                while not await self._hang(request, timeout_s=PING_S):
                    yield frames.sse({"type": "ping"})
            case "close_mid_stream" | "reset_mid_stream":
                self._hang_up(request, reset=fault.kind == "reset_mid_stream")
            case "error_mid_stream":
                yield frames.sse(frames.error(fault))
            case "invalid_sse":
                yield b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"del\n\n'

    async def _hang(self, request: Request, *, timeout_s: float | None = None) -> bool:
        """Wait until the client disconnects or the server closes; False when `timeout_s` has passed before that."""
        gone = asyncio.create_task(_gone(request))
        closing = asyncio.create_task(self._closing.wait())
        try:
            done, _ = await asyncio.wait([gone, closing], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for task in (gone, closing):
                task.cancel()
            await asyncio.gather(gone, closing, return_exceptions=True)

    def _hang_up(self, request: Request, *, reset: bool) -> None:
        assert self._server is not None
        for connection in self._server.server_state.connections:
            transport = getattr(connection, "transport", None)
            if transport is None or getattr(connection, "client", None) != request.scope["client"]:
                continue
            if reset:
                raw = transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HANG_UP_WITH_RESET)
                transport.abort()
            else:
                transport.close()  # what was written before is still sent


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _conversation(request: Request, messages: list[JsonValue]) -> str:
    """A key that a repeated request has in common with the first: its session, and the conversation's length."""
    session = request.headers.get(_SESSION_HEADER, "")
    said = [message for message in messages if isinstance(message, dict) and message.get("role") == "user"]
    text = json.dumps([session, answers(messages), said], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _request_id() -> dict[str, str]:
    return {"request-id": f"req_{secrets.token_hex(12)}"}


def _refusal(status: int, message: str) -> Response:
    return JSONResponse(frames.error_body(status, message), status, _request_id())

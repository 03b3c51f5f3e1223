"""The door: authenticate, bound, parse, start, stream, cancel. Everything behind it sees only checked values."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from modal_app import logs
from modal_app.contract import sse
from modal_app.contract.errors import ERRORS, ContractError, ErrorCode
from modal_app.contract.events import dump_event, event_schema
from modal_app.contract.limits import MAX_BODY_BYTES
from modal_app.contract.requests import parse_request, request_schema
from modal_app.runs.supervisor import Run, Supervisor, terminal_status
from modal_app.sandbox import Platform, terminate_run
from modal_app.settings import Settings, Timeouts

_log = structlog.get_logger(__name__)

SECRET_HEADER = "X-Modal-Secret"  # noqa: S105  # a header's name
RUN_HEADER = "X-Run-Id"
_BODY_S = 60.0
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class RunStream(Response):
    """A run's events as SSE, with heartbeats from the first moment. When the client leaves, the run is told."""

    def __init__(self, run: Run, heartbeat_s: float) -> None:
        super().__init__(headers={**sse.HEADERS, RUN_HEADER: run.run_id})
        del self.headers["content-length"]
        self._run = run
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the run has ended or the client has left, whichever is first."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            complete = sending.done() and not sending.cancelled() and sending.exception() is None
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            if not complete:
                self._run.reader_left()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": sse.HEARTBEAT, "more_body": True})
        events = self._run.events()
        following = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                done, _ = await asyncio.wait([following], timeout=self._heartbeat_s)
                if not done:
                    await send({"type": "http.response.body", "body": sse.HEARTBEAT, "more_body": True})
                    continue
                event = following.result()
                if event is None:
                    break
                await send({"type": "http.response.body", "body": sse.frame(event), "more_body": True})
                following = asyncio.ensure_future(anext(events, None))
        finally:
            following.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def create_app(settings: Settings, platform: Platform) -> FastAPI:
    """The endpoint as an ASGI app; its lifespan ends with every run ended."""
    logs.configure()
    supervisor = Supervisor(platform, settings.timeouts, max_runs=settings.max_runs)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await supervisor.aclose()

    api = FastAPI(title="generate", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @api.exception_handler(ContractError)
    async def refused(_: Request, error: ContractError) -> JSONResponse:
        return _refusal(error.status, error.code, error.message)

    @api.exception_handler(HTTPException)
    async def no_route(_: Request, error: HTTPException) -> JSONResponse:
        code = ErrorCode.NOT_FOUND if error.status_code == 404 else ErrorCode.INVALID_REQUEST
        return _refusal(error.status_code, code, str(error.detail), headers=error.headers)

    @api.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        _log.error("request.internal_error", exc_info=error)
        return _refusal(500, ErrorCode.INTERNAL, ERRORS[ErrorCode.INTERNAL].meaning)

    def authenticate(request: Request) -> None:
        if not settings.accepts(request.headers.get(SECRET_HEADER, "")):
            _log.warning("request.unauthorized", path=request.url.path[:100])
            raise ContractError(ErrorCode.UNAUTHORIZED, f"the header {SECRET_HEADER} is missing or wrong")

    @api.post("/generate", **_documented(settings.timeouts))
    async def generate(request: Request) -> Response:
        authenticate(request)
        parsed = parse_request(await _body(request))
        run = supervisor.start(parsed)
        if not _wants_json(request):
            return RunStream(run, settings.timeouts.heartbeat_s)
        return await _whole(request, run)

    @api.delete("/generate/{run_id}")
    async def cancel(request: Request, run_id: str) -> JSONResponse:
        authenticate(request)
        if not _RUN_ID.fullmatch(run_id):
            raise ContractError(ErrorCode.INVALID_REQUEST, "run_id: must be a canonical lower-case UUID")
        run = supervisor.get(run_id)
        if run is not None:
            run.cancel()
            await run.ended()
        elif not await terminate_run(platform, run_id):
            raise ContractError(ErrorCode.NOT_FOUND, "there is no such run, or it has ended")
        return JSONResponse({"run_id": run_id, "cancelled": True})

    @api.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return api


def _refusal(status: int, code: ErrorCode, message: str, headers: object = None) -> JSONResponse:
    kept = dict(headers) if isinstance(headers, dict) else {}
    return JSONResponse({"error": message, "code": str(code)}, status, headers={"Cache-Control": "no-store", **kept})


def _wants_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/event-stream" not in accepted


async def _body(request: Request) -> bytes:
    """The body, at most MAX_BODY_BYTES of it; raises ContractError."""
    too_large = ContractError(ErrorCode.TOO_LARGE, f"a body may be {MAX_BODY_BYTES} bytes long")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise ContractError(ErrorCode.INVALID_REQUEST, "the body did not arrive in time") from None
    return bytes(body)


async def _whole(request: Request, run: Run) -> Response:
    """Wait for a run's end and answer with its terminal event."""
    ending = asyncio.create_task(_drain(run))
    leaving = asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait([ending, leaving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not ending.done():
            run.reader_left()
        for task in (ending, leaving):
            task.cancel()
        await asyncio.gather(ending, leaving, return_exceptions=True)
    event = run.journal.terminal
    if event is None:
        return Response(status_code=ERRORS[ErrorCode.CANCELLED].status)
    content = dump_event(event)
    if event.type == "error":
        content = json.dumps({"error": event.message, **json.loads(content)})  # every refusal has `error` and `code`
    headers = {RUN_HEADER: run.run_id, "Cache-Control": "no-store"}
    return Response(content, terminal_status(event), headers, media_type="application/json")


async def _drain(run: Run) -> None:
    async for _ in run.events():
        pass


async def _left(receive: Callable[[], Awaitable[object]]) -> None:
    while True:
        message = await receive()
        if isinstance(message, dict) and message.get("type") == "http.disconnect":
            return


def _documented(timeouts: Timeouts) -> dict[str, Any]:
    """What OpenAPI says of POST /generate beyond what FastAPI sees."""
    refusal = {
        "description": "refused",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["error", "code"],
                    "properties": {
                        "error": {"type": "string"},
                        "code": {"type": "string", "enum": [str(code) for code in ErrorCode]},
                    },
                }
            }
        },
    }
    statuses = sorted({info.status for info in ERRORS.values()})
    return {
        "response_class": Response,
        "responses": {
            200: {
                "description": "the run's events; with Accept: application/json its terminal event",
                "content": {"text/event-stream": {"schema": event_schema()}},
            },
            **dict.fromkeys(statuses, refusal),
        },
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"application/json": {"schema": request_schema()}}},
            "parameters": [
                {"name": SECRET_HEADER, "in": "header", "required": True, "schema": {"type": "string"}},
            ],
            "x-timeout-s": timeouts.process_s,
        },
    }

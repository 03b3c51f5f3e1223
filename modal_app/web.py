"""The HTTP interface: authenticates requests, bounds and parses them, and starts, streams, resumes and cancels runs.

Everything behind this module sees only checked values.
"""

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import modal
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from modal_app import logs
from modal_app.contract.caps import MAX_BODY_BYTES, MAX_KEY_CHARS
from modal_app.contract.errors import ERRORS, ContractError, ErrorCode
from modal_app.contract.events import TerminalEvent, dump_event
from modal_app.contract.headers import KEY_HEADER, RUN_HEADER, SECRET_HEADER
from modal_app.contract.requests import Request as JobRequest
from modal_app.contract.requests import parse_request
from modal_app.endpoint_settings import Settings
from modal_app.model.access import ModelAccess
from modal_app.refusal_answers import refusal
from modal_app.runs.event_spool import Spool, SpoolBrokenError
from modal_app.runs.run_records import RunRecord
from modal_app.runs.run_service import RunService
from modal_app.runs.shared_chunks import SharedChunks
from modal_app.runs.shared_state import SharedState
from modal_app.sandboxes.fleet import Platform
from modal_app.stream import RunStream, left

_log = structlog.get_logger(__name__)

_BODY_S = 60.0
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_CHARS}}}")
_SEQ = re.compile(r"[0-9]{1,15}")


class Runs(Protocol):
    """What the HTTP interface asks of whatever has the runs; `RunService` says what each method does."""

    async def submit(self, request: JobRequest, key: str) -> str:
        """Start a run, or find the one of this key; returns its id."""

    async def started(self, request: JobRequest, key: str) -> str:
        """The id of the run of this key; starts none."""

    async def record(self, run_id: str, *, user_id: str | None = None) -> RunRecord:
        """A run's record."""

    def last_seq(self, record: RunRecord) -> int | None:
        """The number of a run's last event so far, if it is known."""

    def reading(self, record: RunRecord) -> AbstractAsyncContextManager[Spool]:
        """The spool of a run's events for one reader."""

    async def cancel(self, run_id: str) -> TerminalEvent:
        """Cancel a run; returns its terminal event."""

    async def aclose(self) -> None:
        """End every run."""


def create_app(settings: Settings, platform: Platform, state: SharedState, model: ModelAccess) -> FastAPI:
    """The endpoint as an ASGI app. When its lifespan ends, it first ends all of this container's runs."""
    logs.configure()
    return create_api(settings, RunService(settings, platform, state, model))


def create_api(settings: Settings, service: Runs) -> FastAPI:
    """The HTTP interface to `service`, as an ASGI app that closes it when its lifespan ends."""
    pieces = SharedChunks()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.aclose()

    api = FastAPI(
        title="generate", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )

    @api.exception_handler(ContractError)
    async def refused(_: Request, error: ContractError) -> JSONResponse:
        return refusal(error)

    @api.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            message = "there is no such path: `workbench contract openapi` lists those there are"
            return refusal(ContractError(ErrorCode.NOT_FOUND, message))
        if error.status_code == 405:
            allowed = ", ".join(_methods(api, request.url.path))
            message = f"this path does not take {request.method[:20]}, but {allowed}"
            return refusal(ContractError(ErrorCode.METHOD_NOT_ALLOWED, message), headers={"Allow": allowed})
        return refusal(ContractError(ErrorCode.INVALID_REQUEST, str(error.detail)))

    @api.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        _log.error("request.internal_error", exc_info=error)
        return refusal(ContractError(ErrorCode.INTERNAL, ERRORS[ErrorCode.INTERNAL].meaning))

    def authenticate(request: Request) -> None:
        if not settings.accepts(request.headers.get(SECRET_HEADER, "")):
            _log.warning("request.unauthorized", path=request.url.path[:100])
            raise ContractError(ErrorCode.UNAUTHORIZED, f"the header {SECRET_HEADER} is missing or wrong")

    async def answer(request: Request, record: RunRecord, after: int) -> Response:
        if _wants_json(request):
            return await _terminal_answer(request, service, record)
        headers = {RUN_HEADER: record.run_id}
        return RunStream(
            service.reading(record),
            after,
            headers=headers,
            timeouts=settings.timeouts,
            pieces=pieces,
            last_seq=service.last_seq(record),
        )

    async def record_of(request: Request, run_id: str) -> RunRecord:
        """A run's record; raises ContractError `not_found` if the query names another user than the run's."""
        user_id = _user_id(request)
        return await service.record(_checked(run_id), user_id=user_id)

    @api.post("/generate")
    async def generate(request: Request) -> Response:
        authenticate(request)
        after, key = _last_event_id(request), _key(request)
        parsed = parse_request(await _body(request))
        run_id = await (service.started(parsed, key) if after else service.submit(parsed, key))
        return await answer(request, await service.record(run_id), after)

    @api.get("/generate/{run_id}")
    async def resume(request: Request, run_id: str) -> Response:
        authenticate(request)
        after = _last_event_id(request)
        return await answer(request, await record_of(request, run_id), after)

    @api.delete("/generate/{run_id}")
    async def cancel(request: Request, run_id: str) -> JSONResponse:
        authenticate(request)
        await record_of(request, run_id)
        try:
            end = await service.cancel(run_id)
        except SpoolBrokenError as error:
            raise ContractError(ErrorCode.SANDBOX_UNAVAILABLE, f"{error}: try again soon", run_id=run_id) from None
        return JSONResponse({"run_id": run_id, "cancelled": end.outcome == ErrorCode.CANCELLED, "outcome": end.outcome})

    @api.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return api


def _methods(api: FastAPI, path: str) -> list[str]:
    """The HTTP methods that a path takes."""
    there = [route for route in api.routes if isinstance(route, APIRoute) and route.path_regex.match(path)]
    return sorted({method for route in there for method in route.methods or ()})


def _checked(run_id: str) -> str:
    if not _RUN_ID.fullmatch(run_id):
        raise ContractError(ErrorCode.INVALID_REQUEST, "run_id: must be a canonical lower-case UUID")
    return run_id


def _user_id(request: Request) -> str | None:
    """The user whose run it must be, from the query `user_id`; None when it is not given."""
    given = request.query_params.getlist("user_id")
    if not given:
        return None
    if len(given) > 1 or not _RUN_ID.fullmatch(given[0]):
        raise ContractError(ErrorCode.INVALID_REQUEST, "user_id: must be given once, as a canonical lower-case UUID")
    return given[0]


def _last_event_id(request: Request) -> int:
    """The number of the last event that the reader has, from its header; 0 when it has none."""
    given = request.headers.get("last-event-id", "")
    if given and not _SEQ.fullmatch(given):
        raise ContractError(ErrorCode.INVALID_REQUEST, "Last-Event-ID: must be the id of an event: up to 15 digits")
    return int(given or 0)


def _key(request: Request) -> str:
    """The key that a repeated request has in common with the first.

    It is the caller's Idempotency-Key, or else the platform's id of the input, which stays the same when the platform
    itself repeats a request.
    """
    given = request.headers.get(KEY_HEADER)
    if given is not None and not _KEY.fullmatch(given):
        message = f"{KEY_HEADER}: must be 1 to {MAX_KEY_CHARS} visible ASCII characters"
        raise ContractError(ErrorCode.INVALID_REQUEST, message)
    if given is not None:
        return f"given/{given}"
    return f"input/{modal.current_input_id() or secrets.token_hex(16)}"


def _wants_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/event-stream" not in accepted


async def _body(request: Request) -> bytes:
    """The request's body.

    Raises ContractError `too_large` beyond MAX_BODY_BYTES, `invalid_request` when it is late, `cancelled` when the
    client leaves.
    """
    too_large = ContractError(ErrorCode.TOO_LARGE, f"the body is too large: at most {MAX_BODY_BYTES} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        message = f"the body did not arrive whole within {_BODY_S:g} s: send it again"
        raise ContractError(ErrorCode.INVALID_REQUEST, message) from None
    except ClientDisconnect:
        raise ContractError(ErrorCode.CANCELLED, "the client left before its request was whole") from None
    return bytes(body)


async def _terminal_answer(request: Request, service: Runs, record: RunRecord) -> Response:
    """Wait for a run's end and answer with its terminal event as JSON; 499 when the client disconnects before."""
    async with service.reading(record) as spool:
        ending = asyncio.create_task(spool.ended())
        leaving = asyncio.create_task(left(request.receive))
        try:
            await asyncio.wait([ending, leaving], return_when=asyncio.FIRST_COMPLETED)
            event = ending.result() if ending.done() else None
        except SpoolBrokenError as error:
            message = f"{error}: ask for run {record.run_id} again"
            raise ContractError(ErrorCode.STREAM_LOST, message, run_id=record.run_id) from None
        finally:
            for task in (ending, leaving):
                task.cancel()
            await asyncio.gather(ending, leaving, return_exceptions=True)
    if event is None:
        return Response(status_code=ERRORS[ErrorCode.CANCELLED].status)
    content = dump_event(event)
    if event.type == "error":
        content = json.dumps({"error": event.message, **json.loads(content)})  # every refusal has `error` and `code`
    headers = {RUN_HEADER: record.run_id, "Cache-Control": "no-store"}
    return Response(content, terminal_status(event), headers, media_type="application/json")


def terminal_status(event: TerminalEvent) -> int:
    """The HTTP status of a JSON answer that is this terminal event: 200, or the status of the error's code."""
    return 200 if event.type == "done" else ERRORS[event.code].status

"""The gateway as an ASGI app: checks a request's token, its run, its limits and its body, and then has it answered.

A caller without a valid token learns nothing, not even which paths exist. The log never holds a key, a token, a request
or an answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from modal_app.model_gateway.error_answers import Refusal, shown
from modal_app.model_gateway.exchange import OngoingExchange, Sink
from modal_app.model_gateway.gateway_settings import GatewaySettings
from modal_app.model_gateway.model_requests import ModelRequest, parse_request
from modal_app.model_gateway.passed_headers import passed_on
from modal_app.model_gateway.recording import Exchange, Replay, ReplayError
from modal_app.model_gateway.run_tokens import RunClaims, TokenError, verify
from modal_app.model_gateway.spending import Meter, Spent
from modal_app.model_gateway.upstream import Upstream

_log = structlog.get_logger(__name__)
ReplayOf = Callable[[str, str], Awaitable[Replay]]
"""Called with a run's id and a replay's id; gives the replay for that run, and always the same one for the run."""
_NOT_VALID = "the run's token is missing or not valid"


def create_gateway(
    settings: GatewaySettings,
    *,
    is_live: Callable[[str], Awaitable[bool]] | None = None,
    record: Sink | None = None,
    replay_of: ReplayOf | None = None,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """The app. Its lifespan owns the connections to the service.

    `is_live` says whether a run is still going on; with it, a token is void once its run has ended, before its expiry.
    `record` is called with every exchange; `replay_of` gives the replay that a run's token names. `clock` gives Unix
    time in seconds.
    """
    gateway = _Gateway(settings, is_live, record, replay_of, clock)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        gateway.upstream = Upstream(settings)
        try:
            yield
        finally:
            await gateway.upstream.aclose()

    return Starlette(routes=[Mount("/", app=gateway)], lifespan=lifespan)


class _Gateway:
    """The ASGI app for every path, so that a caller without a token cannot tell which paths exist."""

    def __init__(
        self,
        settings: GatewaySettings,
        is_live: Callable[[str], Awaitable[bool]] | None,
        record: Sink | None,
        replay_of: ReplayOf | None,
        clock: Callable[[], float],
    ) -> None:
        self.upstream: Upstream | None = None
        self._settings = settings
        self._is_live = is_live
        self._record = record
        self._replay_of = replay_of
        self._clock = clock
        self._meter = Meter(settings.limits, clock=clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        run_id: str | None = None
        try:
            token = _token(request)
            claims = await self._claims(token)
            run_id = claims.run_id
            with self._meter.admitted(claims) as spent:
                await self._answer(request, claims, token, spent, send)
        except Refusal as refusal:
            _log.info("model.refused", run_id=run_id, status=refusal.status, reason=refusal.reason)
            await refusal.response()(scope, receive, send)
        except ClientDisconnect:
            _log.info("model.refused", run_id=run_id, status=499, reason="reader_left")

    async def _claims(self, token: str) -> RunClaims:
        try:
            claims = verify(self._settings.token_secrets, token, now=self._clock())
        except TokenError as error:
            raise Refusal(401, _NOT_VALID, reason=f"token_{error.reason}") from None
        try:
            live = self._is_live is None or await self._is_live(claims.run_id)
        except Exception as error:  # noqa: BLE001  # fails closed, whatever went wrong
            _log.error("model.liveness_failed", run_id=claims.run_id, error=type(error).__name__)
            message = "whether the run is still going on cannot be checked (its record cannot be read): try again soon"
            raise Refusal(503, message, reason="liveness") from None
        if not live:
            raise Refusal(401, _NOT_VALID, reason="token_run_ended")
        return claims

    async def _answer(self, request: Request, claims: RunClaims, token: str, spent: Spent, send: Send) -> None:
        if request.method != "POST":
            raise Refusal(404, f"the gateway takes no {shown(request.method)}, only POST", reason="method")
        raw = await self._body(request, spent)
        settings = self._settings
        headers = passed_on(request.headers, server_tools=settings.server_tools)
        asked = parse_request(
            _path(request), request.url.query, raw, models=settings.models, server_tools=settings.server_tools
        )
        ongoing = OngoingExchange(
            settings,
            claims.run_id,
            asked,
            spent=spent,
            bytes_in=len(raw),
            hidden=(*settings.hidden, token.encode()),
            record=self._record,
        )
        try:
            if claims.replay is None:
                await self._forward(request, headers, asked, ongoing, send)
            else:
                await ongoing.replay(await self._recorded(claims, claims.replay, ongoing), send)
        except Refusal as refusal:
            ongoing.refused(refusal)
            raise
        except asyncio.CancelledError:
            ongoing.outcome = "shut_down"
            raise
        finally:
            await ongoing.conclude()

    async def _body(self, request: Request, spent: Spent) -> bytes:
        limit = self._settings.limits.request_bytes
        too_large = Refusal(413, f"the request is too large: at most {limit} bytes", reason="request_bytes")
        told = request.headers.get("content-length", "0")
        if not (told.isascii() and told.isdigit()) or len(told) > 15 or int(told) > limit:
            raise too_large
        raw = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_s):
                async for chunk in request.stream():
                    raw += chunk
                    spent.bytes_in += len(chunk)
                    if len(raw) > limit:
                        raise too_large
        except TimeoutError:
            message = f"the request did not come whole within {self._settings.body_s:g} s"
            raise Refusal(408, message, reason="body") from None
        return bytes(raw)

    async def _forward(
        self, request: Request, headers: Mapping[str, str], asked: ModelRequest, ongoing: OngoingExchange, send: Send
    ) -> None:
        """Send a request to the service and its answer back, until the end or until the sandbox disconnects."""
        work = asyncio.create_task(self._relay(headers, asked, ongoing, send))
        gone = asyncio.create_task(_disconnected(request.receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if work.cancelled():
            ongoing.outcome = "reader_left"
        elif (failure := work.exception()) is not None:
            raise failure

    async def _recorded(self, claims: RunClaims, replay_id: str, ongoing: OngoingExchange) -> Exchange:
        if self._replay_of is None:
            raise Refusal(403, "this gateway does not replay recordings", reason="replay")
        try:
            replay = await self._replay_of(claims.run_id, replay_id)
        except Exception as error:  # noqa: BLE001  # whatever went wrong, the real model is never asked instead
            _log.error("model.replay_failed", run_id=claims.run_id, error=type(error).__name__)
            message = f"the recording {shown(replay_id)} cannot be read now: try again soon"
            raise Refusal(503, message, reason="replay") from None
        try:
            return replay.answer(ongoing.path, ongoing.request)
        except ReplayError as error:
            raise Refusal(400, str(error), reason="replay") from None

    async def _relay(
        self, headers: Mapping[str, str], asked: ModelRequest, ongoing: OngoingExchange, send: Send
    ) -> None:
        assert self.upstream is not None, "the app's lifespan has not begun"
        async with self.upstream.ask(asked, headers) as answer:
            await ongoing.pass_on(answer, send)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _path(request: Request) -> str:
    """The request's path, relative to where the app is mounted."""
    return str(request.scope["path"]).removeprefix(request.scope.get("root_path", ""))


def _token(request: Request) -> str:
    shown = request.headers.get("x-api-key")
    if shown is not None:
        return shown
    kind, _, shown = request.headers.get("authorization", "").partition(" ")
    return shown if kind.lower() == "bearer" else ""

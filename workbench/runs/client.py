"""The client of an endpoint: sends requests, and yields typed events, each with the time of its arrival.

The order of events is checked. A stream that breaks is resumed where it broke. A stream that cannot be resumed raises
an error; it never looks like a success.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
from httpx_sse import EventSource, SSEError
from pydantic import BaseModel, ConfigDict, ValidationError

from modal_app.contract.errors import ErrorCode
from modal_app.contract.events import TERMINAL, Event, TerminalEvent, UnknownEventError, parse_event
from modal_app.contract.headers import KEY_HEADER, SECRET_HEADER
from modal_app.contract.order import Order, OrderError
from modal_app.contract.requests import Request, dump_request
from workbench.deployment.endpoint import Endpoint
from workbench.errors import WorkbenchError

_log = logging.getLogger(__name__)

CONNECT_S = 10.0
SILENCE_S = 160.0  # Modal gives a function 150 s to answer; once it has, a byte comes at least every 15 s
CANCEL_S = 60.0
_MAX_REFUSAL_BYTES = 64 * 1024
_ACCEPT = {"Accept": "text/event-stream"}
_PASSING = frozenset({408, 500, 502, 503, 504})  # from a proxy before the endpoint, if the body is not the endpoint's
_ATTEMPTS = 5  # in a row without a new event
_PAUSE_S = 0.1  # before the first attempt; it doubles with each
PATIENCE_S = 30.0  # for an endpoint that does not answer to come back
_KNOWN_TYPES = frozenset({"status", "stream", "done", "error"})


class RequestRefusedError(WorkbenchError):
    """The endpoint refused a request before any event; nothing was started. Whose fault says `status`.

    `recoverable` says whether the same request may succeed later, `run_id` which run the refusal is about, if any.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        recoverable: bool = False,
        run_id: str | None = None,
        answered: bool = True,
    ) -> None:
        super().__init__(f"{message} ({code}, HTTP {status})")
        self.status = status
        self.code = code
        self.message = message
        self.recoverable = recoverable
        self.run_id = run_id
        self.passing = not answered
        """Whether it was no answer of the endpoint's own, so that the same request may be made again."""


class StreamLostError(WorkbenchError):
    """The stream ended, broke or fell silent before the terminal event: how the run ended is not known."""

    code = ErrorCode.STREAM_LOST

    def __init__(self, reason: str, *, run_id: str | None, last_seq: int) -> None:
        super().__init__(f"the stream was lost after event {last_seq}: {reason}")
        self.reason = reason
        self.run_id = run_id
        self.last_seq = last_seq


@dataclass(frozen=True, slots=True)
class Received:
    """An event and when it arrived, in seconds of this machine's monotonic clock."""

    event: Event
    at: float


class _Refusal(BaseModel):
    model_config = ConfigDict(extra="ignore")

    error: str = ""
    code: str = "internal"
    recoverable: bool = False
    run_id: str | None = None


class AsyncClient:
    """A client of one endpoint. Close it, or use it as a context manager."""

    def __init__(self, endpoint: Endpoint, *, silence_s: float = SILENCE_S, patience_s: float = PATIENCE_S) -> None:
        """`silence_s`: seconds without a byte after which a stream counts as broken.

        `patience_s`: seconds for which an endpoint that does not answer is asked again for a stream that has broken.
        """
        self._endpoint = endpoint
        self._patience_s = patience_s
        self._http = httpx.AsyncClient(
            base_url=endpoint.url,
            timeout=httpx.Timeout(CONNECT_S, read=silence_s, pool=None),  # heartbeats are bytes: each starts it anew
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
            follow_redirects=False,  # a redirected POST would be followed as a GET
            trust_env=False,  # a proxy from the environment would see the secret
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        await self._http.aclose()

    @asynccontextmanager
    async def stream(self, request: Request, *, key: str | None = None) -> "AsyncIterator[EventStream]":
        """Start a run and yield its events as they arrive; leaving early closes the connection.

        `key` is the Idempotency-Key, made up when there is none: with it, a request whose answer was lost is repeated
        and finds the run that it has started. Raises RequestRefusedError before the first event.
        """
        body = dump_request(request)
        headers = {**_ACCEPT, "Content-Type": "application/json", KEY_HEADER: key or str(uuid.uuid4())}

        async def start() -> httpx.Response:
            return await self._open("POST", "/generate", headers, body)

        async with self._streaming(await _again_if_lost(start)) as events:
            yield events

    @asynccontextmanager
    async def attach(self, run_id: str) -> "AsyncIterator[EventStream]":
        """Read a run that was started elsewhere, from its first event. Raises RequestRefusedError (404, 410)."""

        async def start() -> httpx.Response:
            return await self._open("GET", f"/generate/{run_id}", _ACCEPT)

        async with self._streaming(await _again_if_lost(start)) as events:
            yield events

    @asynccontextmanager
    async def _streaming(self, response: httpx.Response) -> "AsyncIterator[EventStream]":
        async def resume(run_id: str, last_seq: int) -> httpx.Response:
            return await self._open("GET", f"/generate/{run_id}", {**_ACCEPT, "Last-Event-ID": str(last_seq)})

        stream = EventStream(response, resume, patience_s=self._patience_s)
        try:
            yield stream
        finally:
            await stream.aclose()

    async def _open(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> httpx.Response:
        """Send a request for a stream and return the response once its headers are there.

        Raises RequestRefusedError, whose status is 0 when there was no answer.
        """
        outgoing = self._http.build_request(method, path, content=content, headers={**self._headers(), **headers})
        try:
            response = await self._http.send(outgoing, stream=True)
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        if response.status_code != 200:
            try:
                raise await _refusal(response)
            finally:
                await response.aclose()
        return response

    async def run(self, request: Request) -> TerminalEvent:
        """Start a run, wait for its end and return its terminal event. Raises RequestRefusedError, StreamLostError."""
        async with self.stream(request) as events:
            async for received in events:
                if isinstance(received.event, TERMINAL):
                    return received.event
        raise AssertionError("a stream ends with its terminal event or raises")

    async def cancel(self, run_id: str) -> None:
        """Cancel a run; returns when its sandbox is gone. A run that has ended already stays as it is.

        Raises RequestRefusedError (404, 410 for a run that is not kept).
        """
        try:
            response = await self._http.delete(
                f"/generate/{run_id}", headers=self._headers(), timeout=httpx.Timeout(CONNECT_S, read=CANCEL_S)
            )
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        if response.status_code != 200:
            raise await _refusal(response)

    def _headers(self) -> dict[str, str]:
        return {SECRET_HEADER: self._endpoint.secret.get_secret_value()}


class EventStream:
    """The events of one run, checked for order; iterate it once.

    When the connection breaks, a new one is made and the stream continues after the last event that came. `reconnects`
    counts how often.
    """

    def __init__(
        self,
        response: httpx.Response,
        resume: Callable[[str, int], Awaitable[httpx.Response]] | None = None,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.run_id: str | None = response.headers.get("x-run-id")
        self.reconnects = 0
        self.reconnecting = False
        """Whether the connection is broken and no event has come over a new one yet."""
        self._response = response
        self._resume = resume
        self._patience_s = patience_s
        self._order = Order()

    async def __aiter__(self) -> AsyncIterator[Received]:
        """Yield events up to and including the terminal one; raises StreamLostError."""
        lost: StreamLostError | None = None
        attempts = 0
        silent_since = time.monotonic()
        while not self._order.ended:
            last_seq = self._order.last_seq
            try:
                async for received in self._events():
                    self.reconnecting = False
                    yield received
            except StreamLostError as error:
                raise error if lost is None else self._lost(f"{lost.reason}; resuming it, {error.reason}") from None
            except _CutError as error:
                lost = lost if lost is not None and last_seq == self._order.last_seq else self._lost(str(error))
            if self._order.ended:
                break
            if self._order.last_seq > last_seq:
                attempts, silent_since = 0, time.monotonic()
            assert lost is not None
            self.reconnecting = True
            while True:
                if self._resume is None or self.run_id is None or attempts >= _ATTEMPTS:
                    raise lost
                await asyncio.sleep(_PAUSE_S * 2**attempts)
                try:
                    await self._response.aclose()
                    self._response = await self._resume(self.run_id, self._order.last_seq)
                except RequestRefusedError as error:
                    if not error.passing or time.monotonic() - silent_since > self._patience_s:
                        raise self._lost(f"{lost.reason}; resuming it failed: {error}") from None
                    attempts = min(attempts + 1, _ATTEMPTS - 1)  # nobody there: as long as patience lasts
                else:
                    self.reconnects += 1
                    attempts += 1
                    break

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        await self._response.aclose()

    async def _events(self) -> AsyncIterator[Received]:
        """Yield one connection's events. Raises _CutError when it ends too early, StreamLostError for a bad event."""
        lines = EventSource(self._response).aiter_sse()
        while not self._order.ended:
            try:
                message = await anext(lines)
            except StopAsyncIteration:
                raise _CutError("it ended without a terminal event") from None
            except httpx.ReadTimeout:
                raise _CutError("it fell silent: no event and no heartbeat came in time") from None
            except (httpx.HTTPError, SSEError) as error:
                raise _CutError(f"the connection broke ({type(error).__name__})") from None
            at = time.monotonic()
            if message.event not in _KNOWN_TYPES:
                _log.debug("skipped an event of unknown type %r", message.event[:40])
                continue
            try:
                event = parse_event(message.data)
                self._order.check(event)
            except (UnknownEventError, OrderError) as error:
                raise self._lost(f"an event is not what the contract allows: {error}") from None
            yield Received(event, at)

    def _lost(self, reason: str) -> StreamLostError:
        return StreamLostError(reason, run_id=self.run_id, last_seq=self._order.last_seq)


class _CutError(Exception):
    """A connection ended before the run did."""


async def _again_if_lost(start: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Make a request that can be repeated without harm, again when its answer was lost or was not the endpoint's."""
    for attempt in range(_ATTEMPTS):
        try:
            return await start()
        except RequestRefusedError as error:
            if not error.passing or attempt == _ATTEMPTS - 1:
                raise
        await asyncio.sleep(_PAUSE_S * 2**attempt)
    raise AssertionError("the last attempt raises or returns")


def _unreachable(error: httpx.HTTPError) -> RequestRefusedError:
    message = f"the endpoint cannot be reached: {type(error).__name__}"
    return RequestRefusedError(0, "unreachable", message, recoverable=True, answered=False)


async def _refusal(response: httpx.Response) -> RequestRefusedError:
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MAX_REFUSAL_BYTES:
                break
    except httpx.HTTPError:
        pass  # the part of the body that has come is used
    try:
        refusal = _Refusal.model_validate_json(bytes(body))
    except ValidationError:
        message = f"the endpoint answered HTTP {response.status_code}"
        passing = response.status_code in _PASSING
        return RequestRefusedError(response.status_code, "internal", message, recoverable=passing, answered=not passing)
    return RequestRefusedError(
        response.status_code, refusal.code, refusal.error, recoverable=refusal.recoverable, run_id=refusal.run_id
    )

"""Calls an endpoint: a request goes out, typed events come back, each with the moment of its arrival.

The order of events is checked; a stream that ends without its terminal event is an error, never a quiet success.
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
from httpx_sse import EventSource, SSEError
from pydantic import BaseModel, ConfigDict, ValidationError

from modal_app.contract.errors import ErrorCode
from modal_app.contract.events import TERMINAL, Event, TerminalEvent, UnknownEventError, parse_event
from modal_app.contract.order import Order, OrderError
from modal_app.contract.requests import Request, dump_request
from workbench.endpoint import Endpoint

_log = logging.getLogger(__name__)

CONNECT_S = 10.0
SILENCE_S = 160.0  # Modal gives a function 150 s to answer; once it has, a byte comes at least every 15 s
CANCEL_S = 60.0
_MAX_REFUSAL_BYTES = 64 * 1024
_KNOWN_TYPES = frozenset({"status", "stream", "done", "error"})


class RequestRefusedError(Exception):
    """The endpoint refused a request before any event; nothing was started. Whose fault says `status`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{message} ({code}, HTTP {status})")
        self.status = status
        self.code = code
        self.message = message


class StreamLostError(Exception):
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


class AsyncClient:
    """A client of one endpoint. Close it, or use it as a context manager."""

    def __init__(self, endpoint: Endpoint, *, silence_s: float = SILENCE_S) -> None:
        self._endpoint = endpoint
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
    async def stream(self, request: Request) -> "AsyncIterator[EventStream]":
        """Start a run and yield its events as they arrive; leaving early closes the connection.

        Raises RequestRefusedError before the first event.
        """
        outgoing = self._http.build_request(
            "POST",
            "/generate",
            content=dump_request(request),
            headers={**self._headers(), "Content-Type": "application/json", "Accept": "text/event-stream"},
        )
        try:
            response = await self._http.send(outgoing, stream=True)
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        try:
            if response.status_code != 200:
                raise await _refusal(response)
            yield EventStream(response)
        finally:
            await response.aclose()

    async def run(self, request: Request) -> TerminalEvent:
        """Start a run, wait for its end and return how it ended. Raises RequestRefusedError, StreamLostError."""
        async with self.stream(request) as events:
            async for received in events:
                if isinstance(received.event, TERMINAL):
                    return received.event
        raise AssertionError("a stream ends with its terminal event or raises")

    async def cancel(self, run_id: str) -> None:
        """End a run; returns when its sandbox is gone. Raises RequestRefusedError (404 when it has ended already)."""
        try:
            response = await self._http.delete(
                f"/generate/{run_id}", headers=self._headers(), timeout=httpx.Timeout(CONNECT_S, read=CANCEL_S)
            )
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        if response.status_code != 200:
            raise await _refusal(response)

    async def healthy(self) -> bool:
        """Whether the endpoint answers."""
        try:
            response = await self._http.get("/health", timeout=httpx.Timeout(CONNECT_S, read=SILENCE_S))
        except httpx.HTTPError:
            return False
        return response.status_code == 200

    def _headers(self) -> dict[str, str]:
        return {"X-Modal-Secret": self._endpoint.secret.get_secret_value()}


class EventStream:
    """The events of one response, checked for order; iterate it once."""

    def __init__(self, response: httpx.Response) -> None:
        self.run_id = response.headers.get("x-run-id")
        self._response = response
        self._order = Order()

    async def __aiter__(self) -> AsyncIterator[Received]:
        """Yield up to and with the terminal event; raises StreamLostError."""
        lines = EventSource(self._response).aiter_sse()
        while not self._order.ended:
            try:
                message = await anext(lines)
            except StopAsyncIteration:
                raise self._lost("it ended without a terminal event") from None
            except httpx.ReadTimeout:
                raise self._lost("it fell silent") from None
            except (httpx.HTTPError, SSEError) as error:
                raise self._lost(f"the connection broke ({type(error).__name__})") from None
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


def _unreachable(error: httpx.HTTPError) -> RequestRefusedError:
    return RequestRefusedError(0, "unreachable", f"the endpoint cannot be reached: {type(error).__name__}")


async def _refusal(response: httpx.Response) -> RequestRefusedError:
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MAX_REFUSAL_BYTES:
                break
    except httpx.HTTPError:
        pass  # what has come must do
    try:
        refusal = _Refusal.model_validate_json(bytes(body))
    except ValidationError:
        refusal = _Refusal(error=f"the endpoint answered HTTP {response.status_code}")
    return RequestRefusedError(response.status_code, refusal.code, refusal.error)

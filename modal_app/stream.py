"""The HTTP response that streams a run's events: SSE with heartbeats, from the event on that the reader asks for."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager

import structlog
from fastapi import Response
from starlette.types import Receive, Scope, Send

from modal_app.contract import sse
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.headers import RUN_HEADER
from modal_app.endpoint_settings import Timeouts
from modal_app.refusal_answers import refusal
from modal_app.runs.event_spool import Spool, SpoolBrokenError
from modal_app.runs.shared_chunks import SharedChunks

_log = structlog.get_logger(__name__)


_REACHED_S = 5.0  # for an event that the reader says it has to arrive in this container's spool


class ReaderStalledError(Exception):
    """The client has taken no bytes for `send_s` seconds."""


class RunStream(Response):
    """A run's events after event number `after`, as SSE, with heartbeats from the first moment on.

    If `after` is the terminal event, the answer is 204, at which a browser's EventSource stops reconnecting. If there
    is no such event, it is 400.
    """

    def __init__(
        self,
        reading: AbstractAsyncContextManager[Spool],
        after: int,
        *,
        headers: Mapping[str, str],
        timeouts: Timeouts,
        pieces: SharedChunks,
        last_seq: int | None,
    ) -> None:
        """`last_seq` is the number of the run's last event; None for a run that another container executes."""
        super().__init__(headers={**sse.HEADERS, **headers})
        del self.headers["content-length"]
        self._reading = reading
        self._after = after
        self._timeouts = timeouts
        self._pieces = pieces
        self._last_seq = last_seq

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the run has ended or the client has disconnected.

        Raises SpoolBrokenError or ReaderStalledError when it has to stop early: the server then cuts the connection, so
        that an incomplete response does not look complete.
        """
        async with self._reading as spool:
            if self._after and (other := await self._instead(spool)) is not None:
                await other(scope, receive, send)
                return
            sending = asyncio.create_task(self._send(spool, send))
            leaving = asyncio.create_task(left(receive))
            try:
                await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
            except (SpoolBrokenError, ReaderStalledError) as error:
                _log.warning("stream.cut", run_id=spool.run_id, reason=str(error))
                raise
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _instead(self, spool: Spool) -> Response | None:
        """The 204 or 400 for a reader whose last event is the terminal one or does not exist; None for all others."""
        try:
            await spool.reached(self._after, timeout_s=_REACHED_S)
        except TimeoutError:
            pass  # the event may still come
        except SpoolBrokenError:
            return None
        headers = {RUN_HEADER: self.headers[RUN_HEADER], "Cache-Control": "no-store"}
        end = spool.terminal
        if end is not None and self._after == end.seq:
            return Response(status_code=204, headers=headers)
        last = end.seq if end is not None else self._last_seq
        if last is not None and self._after > last:
            message = f"Last-Event-ID: run {spool.run_id} has no event {self._after}, the last is {last}"
            return refusal(ContractError(ErrorCode.INVALID_REQUEST, message, run_id=spool.run_id), headers=headers)
        return None

    async def _send(self, spool: Spool, send: Send) -> None:
        async def body(data: bytes, *, more: bool = True) -> None:
            try:
                async with asyncio.timeout(self._timeouts.send_s):
                    await send({"type": "http.response.body", "body": data, "more_body": more})
            except TimeoutError:
                raise ReaderStalledError(f"the client has taken nothing for {self._timeouts.send_s} s") from None

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await body(sse.HEARTBEAT)
        pieces = spool.read(self._after, take=self._pieces.take)
        following = asyncio.ensure_future(anext(pieces, None))
        whole = True  # the last piece ended an event: a heartbeat may be sent between two events only
        try:
            while True:
                done, _ = await asyncio.wait([following], timeout=self._timeouts.heartbeat_s)
                if not done:
                    if whole:
                        await body(sse.HEARTBEAT)
                    continue
                piece = following.result()
                if piece is None:
                    break
                await body(piece)
                whole = piece.endswith(b"\n\n")
                following = asyncio.ensure_future(anext(pieces, None))
        finally:
            following.cancel()
        await body(b"", more=False)


async def left(receive: Callable[[], Awaitable[object]]) -> None:
    """Return when the client has disconnected."""
    while True:
        message = await receive()
        if isinstance(message, dict) and message.get("type") == "http.disconnect":
            return

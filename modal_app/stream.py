"""A run's events as a response: SSE with heartbeats, resumed where the reader says, left when it takes nothing more.

The SDK's web runtime takes some 1,000 messages of a response before it makes anybody wait, and does not tell how many
the client has. So what a stalled client costs is bounded by the messages' size: it is small at first, and grows as
messages go through that can only have been taken.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager

import structlog
from fastapi import Response
from starlette.types import Receive, Scope, Send

from modal_app.contract import sse
from modal_app.runs.spool import Spool, SpoolBrokenError
from modal_app.settings import Timeouts

_log = structlog.get_logger(__name__)

_AHEAD = 1100  # messages that the runtime may hold: 1,024 and those on their way (SDK 1.6.4)
_FIRST_BYTES = 4 * 1024
_LARGEST_BYTES = 64 * 1024
_GROWTH = 4
_BUDGET_BYTES = 256 * 1024 * 1024  # for all responses together, beyond their first size


class ReaderStalledError(Exception):
    """The client has taken nothing for too long."""


class Pace:
    """Shares the memory that all responses of a container may hold in the runtime."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def response(self) -> Iterator["MessageSize"]:
        """The message size of one response, for as long as it goes on."""
        size = MessageSize(self._grow)
        try:
            yield size
        finally:
            self._held -= size.taken

    def _grow(self, bytes_more: int) -> bool:
        if self._held + bytes_more > _BUDGET_BYTES:
            return False
        self._held += bytes_more
        return True


class MessageSize:
    """How large the next message may be, in bytes."""

    def __init__(self, grow: Callable[[int], bool]) -> None:
        self.taken = 0
        self._grow = grow
        self._bytes = _FIRST_BYTES
        self._sent = 0

    def __call__(self) -> int:
        return self._bytes

    def sent(self) -> None:
        """A message was taken by the runtime."""
        self._sent += 1
        if self._sent < _AHEAD or self._bytes >= _LARGEST_BYTES:
            return
        larger = self._bytes * _GROWTH
        more = (larger - self._bytes) * _AHEAD
        self._sent = 0
        if self._grow(more):
            self._bytes = larger
            self.taken += more


class RunStream(Response):
    """A run's events as SSE, from behind event `after`, with heartbeats from the first moment."""

    def __init__(
        self,
        reading: AbstractAsyncContextManager[Spool],
        after: int,
        *,
        headers: Mapping[str, str],
        timeouts: Timeouts,
        pace: Pace,
    ) -> None:
        super().__init__(headers={**sse.HEADERS, **headers})
        del self.headers["content-length"]
        self._reading = reading
        self._after = after
        self._timeouts = timeouts
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the run has ended or the client has left, whichever is first.

        Raises SpoolBrokenError and ReaderStalledError: a response that is cut off never looks complete.
        """
        async with self._reading as spool:
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

    async def _send(self, spool: Spool, send: Send) -> None:
        async def body(data: bytes, *, more: bool = True) -> None:
            try:
                async with asyncio.timeout(self._timeouts.send_s):
                    await send({"type": "http.response.body", "body": data, "more_body": more})
            except TimeoutError:
                raise ReaderStalledError(f"the client has taken nothing for {self._timeouts.send_s} s") from None

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await body(sse.HEARTBEAT)
        with self._pace.response() as size:
            pieces = spool.read(self._after, piece=size)
            following = asyncio.ensure_future(anext(pieces, None))
            whole = True  # a comment may stand between two events only
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
                    whole = piece.endswith(b"\n\n")
                    await body(piece)
                    size.sent()
                    following = asyncio.ensure_future(anext(pieces, None))
            finally:
                following.cancel()
        await body(b"", more=False)


async def left(receive: Callable[[], Awaitable[object]]) -> None:
    """Return when the client has left."""
    while True:
        message = await receive()
        if isinstance(message, dict) and message.get("type") == "http.disconnect":
            return

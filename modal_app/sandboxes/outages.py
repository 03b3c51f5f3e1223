"""Reads what a program prints over an outage of the platform, for as long as its sandbox is not known to have ended.

The SDK itself tries a broken stream again for about ten seconds, and then raises. A stream of a program's output that
is read again goes on at the byte where it stopped.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

import modal.exception
import structlog
from grpclib.exceptions import StreamTerminatedError

_log = structlog.get_logger(__name__)

AWAY = (modal.exception.ServiceError, StreamTerminatedError, ConnectionError)
"""What the SDK raises when the platform, or the way to it, is away."""
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 4.0
_CONNECTED_S = 20.0  # a stream that is open for so long was connected: the SDK alone would have given it up before


class Outages:
    """What is known of the platform's outages while one command runs; its streams are read by `unbroken`.

    `within_s` is how long one may last. `ended` says whether the command's sandbox has ended. `tell` is called with a
    sentence when an outage begins, and when it is over.
    """

    def __init__(self, *, within_s: float, ended: Callable[[], Awaitable[bool]], tell: Callable[[str], None]) -> None:
        self._within_s = within_s
        self._ended = ended
        self._tell = tell
        self._since: float | None = None

    async def unbroken(self, stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """The chunks of a program's output to their end; raises what the SDK has raised when it stays away."""
        pause_s = _PAUSE_S
        while True:
            opened = time.monotonic()
            try:
                async for chunk in stream:
                    pause_s = _PAUSE_S
                    self._over()
                    yield chunk
            except AWAY as error:
                if time.monotonic() - opened > _CONNECTED_S:
                    self._since = None
                await self._endure(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self._over()
                return

    async def _endure(self, error: Exception) -> None:
        """Note that the platform is away. Raises `error` when that has lasted too long, or the sandbox has ended."""
        now = time.monotonic()
        began = self._since is None
        self._since = now if self._since is None else self._since
        if now - self._since >= self._within_s or await self._ended():
            raise error
        if began:
            _log.warning("sandbox.away", reason=type(error).__name__)
            self._tell("the platform does not answer: the job goes on, and its output is read on as soon as it does")

    def _over(self) -> None:
        if self._since is not None:
            took_s, self._since = time.monotonic() - self._since, None
            _log.info("sandbox.back", away_s=round(took_s, 1))
            self._tell(f"the platform answers again: the job's output goes on where it stopped {took_s:.0f} s ago")

"""A recording as an endpoint: `/generate` on loopback, answered with the recorded frames at their recorded times.

The HTTP interface is the endpoint's own, so credentials, resuming, keys and refusals are as there. Only the runs behind
it are other ones: every request begins the recorded run anew, under its recorded id, and executes nothing.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from os import environ

import uvicorn
from pydantic import SecretStr, ValidationError

from modal_app.contract import sse
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import TERMINAL, ErrorEvent, TerminalEvent
from modal_app.contract.requests import Request
from modal_app.endpoint_settings import Settings
from modal_app.runs.batches import Batch
from modal_app.runs.closing import CANCELLED
from modal_app.runs.event_spool import Spool
from modal_app.runs.run_records import RunRecord, body_digest
from modal_app.web import create_api
from workbench.deployment.endpoint import Endpoint
from workbench.errors import WorkbenchError
from workbench.local_cloud import QuietServer, listen
from workbench.runs.background_loop import BackgroundLoop
from workbench.runs.playback import FASTEST, SLOWEST
from workbench.runs.recordings import Recording

_START_S = 10.0
_STOP_S = 2
_LONGEST_MS = 2**40  # a recording is untrusted: thirty years are enough for any time in it
_NO_RUN = "there is no such run: this endpoint has the recorded run alone, once a request has begun it"


class NotServedError(WorkbenchError):
    """The recording cannot be served; the message says why and what to do."""


@dataclass
class ServedRecording:
    """A recording that is being served: how to call it. `secret_is_new` says that its secret was made for it."""

    endpoint: Endpoint
    run_id: str
    count: int
    secret_is_new: bool
    _read: threading.Event = field(default_factory=threading.Event, repr=False)

    def wait_read(self, timeout_s: float | None = None) -> bool:
        """Wait until a client has read the run to its end; returns whether one has."""
        return self._read.wait(timeout_s)

    def wait_forever(self) -> None:
        """Wait until interrupted."""
        threading.Event().wait()


@contextmanager
def serve(
    recording: Recording, *, speed: float = 1.0, port: int = 0, secret: SecretStr | None = None
) -> Iterator[ServedRecording]:
    """Serve a recording on 127.0.0.1 for the time of the block, `speed` times as fast as it was recorded.

    Without `secret`, the secret is that of the environment variable WORKBENCH_SECRET, or else a new one. Raises
    NotServedError for a secret that the endpoint would not take, a speed out of bounds, and a port that is taken.
    """
    if not SLOWEST <= speed <= FASTEST:
        raise NotServedError(f"the speed is {speed:g}, and must be from {SLOWEST:g} to {FASTEST:g}")
    is_new = secret is None and not environ.get("WORKBENCH_SECRET")
    settings = _settings(SecretStr(secrets.token_urlsafe(32)) if is_new else secret)
    try:
        listener = listen(port)
    except (OSError, OverflowError) as error:
        raise NotServedError(f"port {port} of 127.0.0.1 cannot be used: {error}: give another --port, or 0") from None
    loop = BackgroundLoop()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        served = ServedRecording(
            Endpoint(url=url, secret=settings.secret), recording.run_id, len(recording.events), is_new
        )
        runs = RecordedRuns(recording, speed=speed, on_read=served._read.set)
        config = uvicorn.Config(
            create_api(settings, runs),
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_STOP_S,
        )
        server = QuietServer(config)
        serving = loop.call(server.begin(listener), timeout_s=_START_S)
        try:
            yield served
        finally:
            server.should_exit = True
            with suppress(TimeoutError):  # then the loop's end ends it
                loop.call(_over(serving), timeout_s=_STOP_S + 5)
    finally:
        loop.close()
        listener.close()


async def _over(serving: "asyncio.Task[None]") -> None:
    await asyncio.wait([serving])


def _settings(secret: SecretStr | None) -> Settings:
    try:
        return Settings() if secret is None else Settings(secret=secret)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = "WORKBENCH_" + "_".join(str(part) for part in first["loc"]).upper() if first["loc"] else "WORKBENCH_*"
        raise NotServedError(f"{where}: {first['msg']}") from None


class RecordedRuns:
    """The recorded run, in place of the endpoint's runs: one at a time, begun anew by each request with a new key."""

    def __init__(self, recording: Recording, *, speed: float, on_read: Callable[[], None]) -> None:
        bundle = recording.bundle
        self._record = RunRecord(
            run_id=bundle.run_id,
            user_id=bundle.user_id,
            project_id=bundle.project_id,
            action=bundle.action,
            body_sha256=bundle.body_sha256,
            owner="recording",
            accepted_at_ms=bundle.accepted_at_ms,
        )
        frames = [frame + b"\n\n" for frame in recording.stream.split(b"\n\n") if frame]
        self._frames = [
            (min(event.elapsed_ms, _LONGEST_MS) / 1000 / speed, isinstance(event, TERMINAL), frame)
            for event, frame in zip(recording.events, frames, strict=True)
        ]
        self._speed = speed
        self._on_read = on_read
        self._keys: dict[str, str] = {}
        self._spool: Spool | None = None
        self._playing: asyncio.Task[None] | None = None
        self._begun = 0.0

    async def submit(self, request: Request, key: str) -> str:
        """Begin the recorded run, or join it when this key has begun it.

        Raises ContractError `idempotency_conflict`, and `project_busy` while another key's is under way.
        """
        if self._known(request, key):
            return self._record.run_id
        if self._spool is not None and self._spool.terminal is None:
            message = "the recorded run is under way for another request: a recording serves one at a time"
            raise ContractError(ErrorCode.PROJECT_BUSY, message, run_id=self._record.run_id)
        self._keys[_name(request, key)] = body_digest(request)
        self._let_go(self._spool)
        self._spool = spool = Spool(self._record.run_id)
        self._begun = time.monotonic()
        self._playing = asyncio.create_task(self._play(spool))
        return self._record.run_id

    async def started(self, request: Request, key: str) -> str:
        """The recorded run, if this key has begun it. Raises ContractError `invalid_request`."""
        if not self._known(request, key):
            raise ContractError(ErrorCode.INVALID_REQUEST, "Last-Event-ID: no run was started with this key")
        return self._record.run_id

    async def record(self, run_id: str, *, user_id: str | None = None) -> RunRecord:
        """The recorded run's record. Raises ContractError `not_found` for another run, another user, and before it."""
        if self._spool is None or run_id != self._record.run_id or user_id not in (None, self._record.user_id):
            raise ContractError(ErrorCode.NOT_FOUND, _NO_RUN)
        return self._record

    def last_seq(self, record: RunRecord) -> int | None:
        """The number of the last event that was played."""
        return None if self._spool is None else self._spool.last_seq

    @asynccontextmanager
    async def reading(self, record: RunRecord) -> AsyncIterator[Spool]:
        """The spool of the run that was begun last."""
        spool = self._spool
        if spool is None:
            raise ContractError(ErrorCode.NOT_FOUND, _NO_RUN)
        spool.readers += 1
        try:
            yield spool
            if spool.terminal is not None:  # a client that breaks off ends the block by an exception
                self._on_read()
        finally:
            spool.readers -= 1
            if spool is not self._spool:
                self._let_go(spool)

    async def cancel(self, run_id: str) -> TerminalEvent:
        """End the run with the error `cancelled`, unless it has ended already; returns its terminal event."""
        spool = self._spool
        assert spool is not None, "`record` was asked before"
        if spool.terminal is None:
            await self._stop()
        if spool.terminal is None:
            end = self._cancelled(spool.last_seq + 1)
            spool.append(Batch(end.seq, end.seq, sse.frame(end), terminal=True))
        return await spool.ended()

    async def aclose(self) -> None:
        """Stop playing: whoever still reads sees the connection cut. Idempotent."""
        await self._stop()
        if self._spool is not None:
            self._spool.close()

    async def _play(self, spool: Spool) -> None:
        for seq, (due, terminal, frame) in enumerate(self._frames, 1):
            wait = self._begun + due - time.monotonic()
            if wait > 0 and seq > 1:  # a run begins with its first event
                await asyncio.sleep(wait)
            spool.append(Batch(seq, seq, frame, terminal=terminal))

    async def _stop(self) -> None:
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.wait([self._playing])

    def _cancelled(self, seq: int) -> ErrorEvent:
        elapsed = int((time.monotonic() - self._begun) * 1000 * self._speed)
        return ErrorEvent(
            run_id=self._record.run_id,
            seq=seq,
            at_ms=self._record.accepted_at_ms + elapsed,
            elapsed_ms=elapsed,
            code=CANCELLED.code,
            message=CANCELLED.message,
            recoverable=CANCELLED.recoverable,
        )

    def _known(self, request: Request, key: str) -> bool:
        """Whether this key has begun the run. Raises ContractError `idempotency_conflict` for another body."""
        known = self._keys.get(_name(request, key))
        if known not in (None, body_digest(request)):
            message = "the same Idempotency-Key came with another body"
            raise ContractError(ErrorCode.IDEMPOTENCY_CONFLICT, message, run_id=self._record.run_id)
        return known is not None

    @staticmethod
    def _let_go(spool: Spool | None) -> None:
        if spool is not None and not spool.readers:
            spool.close()


def _name(request: Request, key: str) -> str:
    return f"{request.user_id}/{request.project_id}/{key}"

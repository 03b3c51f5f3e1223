"""One exchange: the answer is passed on to the sandbox as it comes, counted, logged and recorded."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cached_property

import httpx
import structlog
from pydantic import JsonValue
from starlette.types import Send

from modal_app.contract.json_text import parse_json
from modal_app.model_gateway.error_answers import Refusal
from modal_app.model_gateway.gateway_settings import GatewaySettings
from modal_app.model_gateway.model_requests import PATHS, ModelRequest
from modal_app.model_gateway.recording import Exchange, redacted
from modal_app.model_gateway.spending import Spent
from modal_app.model_gateway.upstream import EVENT_STREAM, JSON, Answer, alive
from modal_app.model_gateway.wire import Scrubber, UsageTap

_log = structlog.get_logger(__name__)
_RECORD_S = 5.0
_BYTES_A_TOKEN = 4  # the estimate for a request whose answer never told its usage
_BYTES_A_STREAMED_TOKEN = 100  # the estimate for an answer that was cut off before it told its usage

Sink = Callable[[str, Exchange], Awaitable[None]]
"""Called with a run's id and an exchange of the run, to record it."""


class OngoingExchange:
    """One exchange with the model, from the request to the end of its answer.

    `spent` is the run's account, `bytes_in` the request's size. `hidden` are secrets, which are replaced in answers and
    recordings. `outcome` says in one word how the exchange went, "whole" when it went well.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        run_id: str,
        asked: ModelRequest,
        *,
        spent: Spent,
        bytes_in: int,
        hidden: tuple[bytes, ...],
        record: Sink | None,
    ) -> None:
        self.outcome = "whole"
        self.path = asked.path
        self._settings = settings
        self._run_id = run_id
        self._asked = asked
        self._spent = spent
        self._bytes_in = bytes_in
        self._bytes_out = 0
        self._hidden = hidden
        self._record = record
        self._status = 0
        self._content_type = JSON
        self._kept = bytearray()
        self._tap = UsageTap(time.monotonic)
        self._started = time.monotonic()
        self._broken = False  # the replayed answer had broken off when it was recorded
        self._concluding: asyncio.Task[None] | None = None

    @cached_property
    def request(self) -> dict[str, JsonValue]:
        """The request's body without secrets, as it may be recorded."""
        return redacted(self._asked.body, self._hidden)

    async def pass_on(self, answer: Answer, send: Send) -> None:
        """Send the service's answer to the sandbox. Raises Refusal for a failure before anything was sent."""
        if answer.content_type == EVENT_STREAM:
            await self._stream(answer, send)
        else:
            await self._whole(answer, send)

    async def replay(self, exchange: Exchange, send: Send) -> None:
        """Send a recorded answer to the sandbox."""
        self.outcome = "replayed"
        self._broken = not exchange.whole
        data = exchange.answer.encode()
        self._tap.feed(data)
        if exchange.content_type == JSON and exchange.status == 200:
            with suppress(ValueError):  # a recording may be written by hand; then only its usage is not counted
                self._tap.message(parse_json(data))
        await self._start(send, exchange.content_type, exchange.status)
        await self._send(send, data)
        await self._end(send)

    def refused(self, refusal: Refusal) -> None:
        """Take note that the sandbox is answered with this error."""
        self.outcome = refusal.reason
        self._status = refusal.status
        self._kept[:] = json.dumps(refusal.body()).encode()

    async def conclude(self) -> None:
        """Count, log and record the exchange, however it ended. Idempotent.

        The end of an answer is sent only afterwards: what a run has seen whole is recorded before the run can end.
        """
        if self._concluding is None:
            self._concluding = asyncio.create_task(self._conclude())
        await asyncio.shield(self._concluding)

    async def _conclude(self) -> None:
        tokens = self._tokens()
        self._spent.tokens += tokens
        elapsed_ms = int((time.monotonic() - self._started) * 1000)
        _log.info(
            "model.exchange",
            run_id=self._run_id,
            model=self._asked.model,
            stream=self._asked.streams,
            status=self._status,
            outcome=self.outcome,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            tokens=tokens,
            elapsed_ms=elapsed_ms,
        )
        if self._record is None or not self._status:
            return
        exchange = Exchange(
            path=self.path,
            request=self.request,
            status=self._status,
            content_type=self._content_type,
            answer=self._kept.decode(errors="replace"),
            whole=self.outcome in ("whole", "replayed") and not self._broken,
            elapsed_ms=elapsed_ms,
        )
        try:
            async with asyncio.timeout(_RECORD_S):
                await self._record(self._run_id, exchange)
        except Exception as error:  # noqa: BLE001  # recording may fail in any way; the run goes on without it
            _log.error("model.record_failed", run_id=self._run_id, error=type(error).__name__)

    async def _whole(self, answer: Answer, send: Send) -> None:
        data = bytearray()
        try:
            async with asyncio.timeout(self._settings.whole_s):
                async for chunk in answer.chunks:
                    data += chunk
                    if len(data) > self._settings.limits.response_bytes:
                        limit = self._settings.limits.response_bytes
                        sentence = f"the model's answer is too large: at most {limit} bytes"
                        raise Refusal(502, sentence, reason="response_bytes")
        except TimeoutError:
            sentence = f"the model's service did not answer within {self._settings.whole_s:g} s"
            raise Refusal(504, sentence, reason="idle") from None
        except httpx.HTTPError:
            sentence = "the connection to the model's service broke within its answer"
            raise Refusal(502, sentence, reason="upstream_broke") from None
        try:
            message = parse_json(bytes(data))
        except ValueError:
            sentence = "the model's service gave an answer that is not JSON: check WORKBENCH_MODEL_UPSTREAM_URL"
            raise Refusal(502, sentence, reason="json") from None
        self._tap.message(message)
        scrubber = Scrubber(self._hidden)
        await self._start(send, JSON)
        await self._send(send, scrubber.feed(bytes(data)) + scrubber.flush())
        await self._end(send)

    async def _stream(self, answer: Answer, send: Send) -> None:
        scrubber = Scrubber(self._hidden)
        await self._start(send, EVENT_STREAM)
        try:
            async for chunk in alive(
                answer.chunks,
                idle_s=self._settings.idle_s,
                last_life=lambda: self._tap.last_life,
                clock=time.monotonic,
            ):
                self._tap.feed(chunk)
                await self._send(send, scrubber.feed(chunk))
                if self._bytes_out > self._settings.limits.response_bytes:
                    message = f"the model's answer is too large: at most {self._settings.limits.response_bytes} bytes"
                    await self._break_off(send, Refusal(413, message, reason="response_bytes"))
                    return
            await self._send(send, scrubber.flush())
            if not self._tap.whole:
                self.outcome = "upstream_cut"
        except TimeoutError:
            sentence = f"the model's service said nothing for {self._settings.idle_s:g} s"
            await self._break_off(send, Refusal(504, sentence, reason="idle"))
            return
        except httpx.HTTPError:
            self.outcome = "upstream_broke"  # a stream that ends too early tells the client the same
        await self._end(send)

    async def _break_off(self, send: Send, refusal: Refusal) -> None:
        """End a stream with an error event, so that its reader does not ask again as after a broken connection."""
        self.outcome = refusal.reason
        event = f"\n\nevent: error\ndata: {json.dumps(refusal.body())}\n\n"
        await self._send(send, event.encode())
        await self._end(send)

    async def _start(self, send: Send, content_type: str, status: int = 200) -> None:
        self._status, self._content_type = status, content_type
        headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
        if content_type == EVENT_STREAM:
            headers.append((b"x-accel-buffering", b"no"))
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def _send(self, send: Send, data: bytes) -> None:
        if not data:
            return
        self._bytes_out += len(data)
        if self._record is not None:
            self._kept += data
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _end(self, send: Send) -> None:
        await self.conclude()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _tokens(self) -> int:
        if self._status != 200 or self._asked.path != PATHS[0]:
            return 0
        told = self._tap.tokens if self._tap.seen else self._bytes_in // _BYTES_A_TOKEN
        return told if self._tap.whole else told + self._bytes_out // _BYTES_A_STREAMED_TOKEN

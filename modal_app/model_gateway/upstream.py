"""Sends requests to the model's service and gives the answers as they come. Knows neither tokens nor limits."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from modal_app.contract.json_text import parse_json
from modal_app.model_gateway.error_answers import ERROR_TYPES, Refusal, shown
from modal_app.model_gateway.gateway_settings import GatewaySettings
from modal_app.model_gateway.model_requests import ModelRequest
from modal_app.model_gateway.wire import scrub

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
_MAX_ERROR_BYTES = 64 * 1024
_MAX_SENTENCE_CHARS = 500
_LOST = "the model's service could not be reached: check WORKBENCH_MODEL_UPSTREAM_URL and the network"


@dataclass(frozen=True)
class Answer:
    """An answer with status 200: its content type, and its bytes as they come."""

    content_type: str
    chunks: AsyncIterator[bytes]


class Upstream:
    """The connections to the service, made with the real key."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        # No timeout for reads: an answer may take long as long as something comes, which `alive` watches.
        timeout = httpx.Timeout(settings.headers_s, connect=settings.connect_s, read=None, pool=None)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
        # No proxy of the environment, no redirect: the key goes to the one address that was configured.
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False, follow_redirects=False)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    @asynccontextmanager
    async def ask(self, request: ModelRequest, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """Send a request with these headers of the sandbox's; gives the answer for the duration of the block.

        Raises Refusal unless the service answers with 200 and the expected content type, within `headers_s`.
        """
        url = f"{self._settings.upstream_url}{request.path}" + ("?beta=true" if request.beta else "")
        sent = {**headers, "content-type": JSON, "accept": JSON, "accept-encoding": "identity", **self._credential()}
        built = self._client.build_request("POST", url, content=request.dump(), headers=sent)
        try:
            async with asyncio.timeout(self._settings.headers_s):
                response = await self._client.send(built, stream=True)
        except (TimeoutError, httpx.TimeoutException):
            message = f"the model's service did not begin to answer within {self._settings.headers_s:g} s"
            raise Refusal(504, message, reason="headers") from None
        except (httpx.HTTPError, httpx.InvalidURL):
            raise Refusal(502, _LOST, reason="unreachable") from None
        try:
            if response.status_code != 200:
                raise await self._refused(response)
            content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            wanted = EVENT_STREAM if request.streams else JSON
            if content_type != wanted or "content-encoding" in response.headers:
                encoding = " with a content-encoding" if "content-encoding" in response.headers else ""
                got = f"{shown(content_type)}{encoding}"
                message = f"the model's service answered with {got}, not with plain {wanted}"
                raise Refusal(502, message, reason="content_type")
            yield Answer(content_type, response.aiter_raw())
        finally:
            await response.aclose()

    def _credential(self) -> dict[str, str]:
        key = self._settings.upstream_key.get_secret_value()
        if self._settings.upstream_auth == "bearer":
            return {"authorization": f"Bearer {key}"}
        return {"x-api-key": key}

    async def _refused(self, response: httpx.Response) -> Refusal:
        """The Refusal for an error of the service: its status and its message without secrets, never its headers."""
        status = response.status_code
        if status in (401, 403):
            message = "the model's service refused the gateway's credentials: check WORKBENCH_MODEL_UPSTREAM_KEY"
            return Refusal(403, message, reason="upstream_credentials")
        if status not in ERROR_TYPES and status < 500:
            message = f"the model's service answered with HTTP status {status}: check WORKBENCH_MODEL_UPSTREAM_URL"
            return Refusal(502, message, reason=f"upstream_{status}")
        raw = bytearray()
        try:
            async with asyncio.timeout(self._settings.connect_s):
                async for chunk in response.aiter_raw():
                    raw += chunk
                    if len(raw) > _MAX_ERROR_BYTES:
                        break
        except (TimeoutError, httpx.HTTPError):
            pass  # then the status is told without the service's message
        sentence = _sentence(bytes(raw[:_MAX_ERROR_BYTES]))
        wait = response.headers.get("retry-after", "")
        retry_after_s = int(wait) if wait.isascii() and wait.isdigit() and len(wait) < 6 else None
        message = scrub(sentence, self._settings.hidden) or f"the model's service failed with HTTP status {status}"
        return Refusal(status, message, reason=f"upstream_{status}", retry_after_s=retry_after_s)


async def alive(
    chunks: AsyncIterator[bytes], *, idle_s: float, last_life: Callable[[], float], clock: Callable[[], float]
) -> AsyncIterator[bytes]:
    """Yield the chunks as they are. Raises httpx.HTTPError when the connection breaks.

    Raises TimeoutError when `idle_s` seconds have passed since `last_life()`, the time on `clock` at which the last
    event came that was no ping.
    """
    iterator = aiter(chunks)
    while True:
        async with asyncio.timeout(max(0.0, last_life() + idle_s - clock())):
            chunk = await anext(iterator, None)
        if chunk is None:
            return
        yield chunk


def _sentence(raw: bytes) -> str:
    try:
        body = parse_json(raw)
    except ValueError:
        return ""
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if not isinstance(message, str):
        return ""
    return "".join(character if character.isprintable() else " " for character in message[:_MAX_SENTENCE_CHARS])

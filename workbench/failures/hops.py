"""Hops between a client and an endpoint, such as proxies: each does harm to a stream unless a header forbids it.

A hop listens on loopback only, passes the caller's secret on, and counts the streams that it met. It demonstrates a
failure and is of no other use.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from workbench.local_cloud import QuietServer, listen
from workbench.runs.background_loop import BackgroundLoop

Harm = Literal["buffers", "buffers whatever is said", "compresses", "stores"]
"""What a hop does to a stream, and how it is forbidden.

`buffers`: it sends nothing on before the end, unless `X-Accel-Buffering: no`. `buffers whatever is said`: always so.
`compresses`: it compresses and keeps what does not fill its window, unless `Cache-Control: no-transform`. `stores`: it
answers a path with what it has answered there before, unless `Cache-Control: no-cache` or `no-store`.
"""
_FORBIDDEN: dict[Harm, Callable[[httpx.Headers], bool]] = {
    "buffers": lambda headers: headers.get("x-accel-buffering", "").lower() == "no",
    "buffers whatever is said": lambda headers: False,
    "compresses": lambda headers: "no-transform" in headers.get("cache-control", ""),
    "stores": lambda headers: bool({"no-cache", "no-store"} & set(_directives(headers))),
}
_START_S = 10.0
_OWN = frozenset(("host", "content-length", "connection", "transfer-encoding", "accept-encoding", "content-encoding"))


@dataclass
class _Stored:
    headers: dict[str, str]
    body: bytes


class Hop:
    """A reverse proxy in front of an endpoint. Close it.

    A subclass changes what passes in `asked`, `answered` and `sent`. `met` says how many streams passed through,
    `harmed` to how many it did harm. With `cut_after_s`, the first of them is cut off so long after its beginning. With
    `idle_cut_s`, each is cut off when no byte has passed for so long.
    """

    def __init__(
        self,
        url: str,
        harm: Harm | None = None,
        *,
        cut_after_s: float | None = None,
        idle_cut_s: float | None = None,
    ) -> None:
        self.met = 0
        self.harmed = 0
        self._upstream = url
        self._harm = harm
        self._cut_after_s = cut_after_s
        self._idle_cut_s = idle_cut_s
        self._stored: dict[str, _Stored] = {}
        self._loop = BackgroundLoop()
        self._listener = listen(0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        try:
            self._loop.call(self._start(), timeout_s=_START_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving. Idempotent."""
        self._loop.close()
        self._listener.close()

    def asked(self, headers: dict[str, str]) -> dict[str, str]:
        """The headers of a request as this hop passes them on."""
        return headers

    def answered(self, status: int, headers: dict[str, str]) -> dict[str, str]:
        """The headers of an answer as this hop passes them on."""
        return headers

    def sent(self, status: int, piece: bytes) -> bytes:
        """A piece of an answer's body as this hop passes it on."""
        return piece

    async def _start(self) -> None:
        routes = [Route("/{path:path}", self._pass, methods=["GET", "POST", "DELETE"])]
        config = uvicorn.Config(
            Starlette(routes=routes),
            lifespan="off",
            log_config=None,
            log_level="critical",  # a connection that it cuts is no error
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._serving = await QuietServer(config).begin(self._listener)  # kept, for the loop alone would let it go

    async def _pass(self, request: Request) -> Response:
        if self._harm == "stores" and (kept := self._stored.get(request.url.path)):
            self.met += 1
            self.harmed += 1
            return Response(kept.body, headers=kept.headers)
        client = httpx.AsyncClient(timeout=httpx.Timeout(10, read=160), trust_env=False)
        headers = self.asked({name: value for name, value in request.headers.items() if name not in _OWN})
        target = f"{self._upstream}{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
        outgoing = client.build_request(request.method, target, content=await request.body(), headers=headers)
        outgoing.headers["accept-encoding"] = "identity"
        try:
            upstream = await client.send(outgoing, stream=True)
        except BaseException:
            await client.aclose()
            raise
        passed = {name: value for name, value in upstream.headers.items() if name not in _OWN}
        body = self._acting(request, upstream, passed)

        async def whole() -> AsyncIterator[bytes]:
            try:
                async for piece in body:
                    yield self.sent(upstream.status_code, piece)
            finally:
                await upstream.aclose()
                await client.aclose()

        return StreamingResponse(whole(), upstream.status_code, self.answered(upstream.status_code, passed))

    def _acting(self, request: Request, upstream: httpx.Response, passed: dict[str, str]) -> AsyncIterator[bytes]:
        """The response's bytes, as this hop lets them through; its headers are changed to fit."""
        pieces = upstream.aiter_raw()
        if upstream.status_code != 200 or "event-stream" not in upstream.headers.get("content-type", ""):
            return pieces
        self.met += 1
        if self._cut_after_s is not None and not self.harmed:
            self.harmed += 1
            return _cut(pieces, self._cut_after_s)
        if self._idle_cut_s is not None:
            return self._impatient(pieces, self._idle_cut_s)
        if self._harm is None or _FORBIDDEN[self._harm](upstream.headers):
            return pieces
        self.harmed += 1
        if self._harm == "compresses":
            passed["content-encoding"] = "gzip"
            return _compressed(pieces)
        if self._harm == "stores":
            return self._stores(request.url.path, passed, pieces)
        return _held_back(pieces)

    async def _impatient(self, pieces: AsyncIterator[bytes], idle_s: float) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(idle_s):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                self.harmed += 1
                raise ConnectionAbortedError("the hop cuts the connection") from None
            yield piece

    async def _stores(self, path: str, headers: dict[str, str], pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        kept = bytearray()
        try:
            async for piece in pieces:
                kept += piece
                yield piece
        finally:  # also when the client leaves at the event that ends the stream
            self._stored[path] = _Stored(dict(headers), bytes(kept))


def _directives(headers: httpx.Headers) -> list[str]:
    return [word.strip().lower() for word in headers.get("cache-control", "").split(",")]


async def _held_back(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    held = [piece async for piece in pieces]
    yield b"".join(held)


async def _compressed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    async for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


async def _cut(pieces: AsyncIterator[bytes], after_s: float) -> AsyncIterator[bytes]:
    try:
        async with asyncio.timeout(after_s):
            async for piece in pieces:
                yield piece
    except TimeoutError:
        raise ConnectionAbortedError("the hop cuts the connection") from None

"""A proxy between a client and the endpoint that holds responses back, as proxies do that buffer or compress.

It demonstrates a failure: events arrive all at once, at the end. It listens on loopback only, and passes the caller's
secret on.
"""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from workbench.deployment.endpoint import Endpoint
from workbench.local_cloud import QuietServer, listen
from workbench.runs.background_loop import BackgroundLoop

_START_S = 10.0
_PASSED_ON = ("x-modal-secret", "content-type", "accept")


class BufferingHop:
    """A reverse proxy for `/generate` that sends nothing on until `buffer_bytes` have come, or the end. Close it."""

    def __init__(self, endpoint: Endpoint, *, buffer_bytes: int = 1024 * 1024) -> None:
        self._upstream = endpoint
        self._buffer_bytes = buffer_bytes
        self._loop = BackgroundLoop()
        self._listener = listen(0)
        self.endpoint = Endpoint(url=f"http://127.0.0.1:{self._listener.getsockname()[1]}", secret=endpoint.secret)
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

    async def _start(self) -> None:
        app = Starlette(routes=[Route("/generate", self._generate, methods=["POST"])])
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
        server = QuietServer(config)
        self._serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        while not server.started:
            if self._serving.done():
                self._serving.result()
            await asyncio.sleep(0.01)

    async def _generate(self, request: Request) -> StreamingResponse:
        body = await request.body()
        client = httpx.AsyncClient(timeout=httpx.Timeout(10, read=160), trust_env=False)
        headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
        upstream = await client.send(
            client.build_request("POST", f"{self._upstream.url}/generate", content=body, headers=headers), stream=True
        )

        async def held_back() -> AsyncIterator[bytes]:
            held = bytearray()
            try:
                async for chunk in upstream.aiter_raw():
                    held += chunk
                    if len(held) >= self._buffer_bytes:
                        yield bytes(held)
                        held.clear()
                yield bytes(held)
            finally:
                await upstream.aclose()
                await client.aclose()

        passed = {"content-type": upstream.headers.get("content-type", "text/event-stream")}
        return StreamingResponse(held_back(), upstream.status_code, passed)

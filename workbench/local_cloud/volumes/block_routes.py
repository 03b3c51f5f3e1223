"""Volume blocks over HTTP: 8 MiB pieces of files, by signed links, straight from and to the content store."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from workbench.local_cloud.server.signed_links import Links
from workbench.local_cloud.store.content import ContentStore

BLOCK_BYTES = 8 * 1024 * 1024  # the SDK's block size
_CHUNK_BYTES = 256 * 1024


class VolumeRoutes:
    """Takes blocks by their hash and gives ranges of contents."""

    def __init__(self, content: ContentStore, links: Links) -> None:
        self._content = content
        self._links = links
        self.routes = [
            Route("/blocks/{sha256}", self._put, methods=["PUT"]),
            Route("/blocks/{sha256}", self._get, methods=["GET"]),
        ]

    def upload_url(self, sha256: str) -> str:
        """Where the block with this hash is to be PUT."""
        return self._links.make("PUT", f"/blocks/{sha256}")

    def download_urls(self, sha256: str, *, start: int, length: int) -> list[str]:
        """One URL for each aligned block that holds a part of the range."""
        urls = []
        position, end = start, start + length
        while position < end:
            stop = min(end, (position // BLOCK_BYTES + 1) * BLOCK_BYTES)
            urls.append(self._links.make("GET", f"/blocks/{sha256}", start=position, length=stop - position))
            position = stop
        return urls

    async def _put(self, request: Request) -> Response:
        if (refusal := self._links.refusal(request)) is not None:
            return refusal
        sha256 = request.path_params["sha256"]
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > BLOCK_BYTES:
                return PlainTextResponse("a block is at most 8 MiB", 413)
        if hashlib.sha256(data).hexdigest() != sha256:
            return PlainTextResponse("the bytes do not match the block's sha256", 400)
        await asyncio.to_thread(self._content.add_bytes, bytes(data))
        return PlainTextResponse(sha256)

    async def _get(self, request: Request) -> Response:
        if (refusal := self._links.refusal(request)) is not None:
            return refusal
        sha256 = request.path_params["sha256"]
        if not self._content.has(sha256):
            return PlainTextResponse("no such content", 404)
        start, length = int(request.query_params["start"]), int(request.query_params["length"])
        headers = {"content-length": str(length)}
        return StreamingResponse(
            self._read(sha256, start, length), media_type="application/octet-stream", headers=headers
        )

    async def _read(self, sha256: str, start: int, length: int) -> AsyncIterator[bytes]:
        with self._content.open(sha256) as file:
            file.seek(start)
            while length > 0 and (chunk := await asyncio.to_thread(file.read, min(length, _CHUNK_BYTES))):
                length -= len(chunk)
                yield chunk

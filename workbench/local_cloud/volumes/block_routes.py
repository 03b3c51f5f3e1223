"""Upload and download of volume blocks (8 MiB pieces of files) over HTTP by signed links, from and to the store."""

import hashlib

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from workbench.local_cloud.server.contents import content_response
from workbench.local_cloud.server.signed_links import Links
from workbench.local_cloud.store.arrivals import Arrivals
from workbench.local_cloud.store.content import ContentStore

BLOCK_BYTES = 8 * 1024 * 1024  # the SDK's block size


class VolumeRoutes:
    """Makes the links of blocks, and serves them: PUT of a whole block by its sha256, GET of a range of a content."""

    def __init__(self, content: ContentStore, arrivals: Arrivals, links: Links) -> None:
        self._content = content
        self._arrivals = arrivals
        self._links = links
        self.routes = [
            Route("/blocks/{sha256}", self._put, methods=["PUT"]),
            Route("/blocks/{sha256}", self._get, methods=["GET"]),
        ]

    def upload_url(self, sha256: str) -> str:
        """Return the signed URL to which the block with this sha256 is to be PUT."""
        return self._links.make("PUT", f"/blocks/{sha256}")

    def download_urls(self, sha256: str, *, start: int, length: int) -> list[str]:
        """Return one signed URL for each block that holds a part of the range; `start` and `length` are in bytes."""
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
                return PlainTextResponse(f"a block is at most {BLOCK_BYTES} bytes (8 MiB), this one is longer", 413)
        if hashlib.sha256(data).hexdigest() != sha256:
            return PlainTextResponse(f"the bytes do not have the block's sha256 {sha256}: send the block again", 400)
        await self._arrivals.add(sha256, bytes(data))
        return PlainTextResponse(sha256)

    async def _get(self, request: Request) -> Response:
        if (refusal := self._links.refusal(request)) is not None:
            return refusal
        sha256 = request.path_params["sha256"]
        if not self._content.has(sha256):
            return PlainTextResponse(f"there is no content {sha256} any more: list the volume again", 404)
        start, length = int(request.query_params["start"]), int(request.query_params["length"])
        return content_response(self._content, sha256, start=start, length=length)

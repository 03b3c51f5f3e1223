"""Answers HTTP requests with contents of the store, piece by piece."""

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import Response, StreamingResponse

from workbench.local_cloud.store.content import ContentStore

_CHUNK_BYTES = 256 * 1024


def content_response(content: ContentStore, sha256: str, *, start: int = 0, length: int | None = None) -> Response:
    """Return a response with `length` bytes of a content from the byte `start`, by default all of it.

    Raises FileNotFoundError.
    """
    length = content.size(sha256) - start if length is None else length
    headers = {"content-length": str(length)}
    body = _read(content, sha256, start, length)
    return StreamingResponse(body, media_type="application/octet-stream", headers=headers)


async def _read(content: ContentStore, sha256: str, start: int, length: int) -> AsyncIterator[bytes]:
    with content.open(sha256) as file:
        file.seek(start)
        while length > 0 and (chunk := await asyncio.to_thread(file.read, min(length, _CHUNK_BYTES))):
            length -= len(chunk)
            yield chunk

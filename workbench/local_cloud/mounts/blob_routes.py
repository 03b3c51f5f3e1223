"""Blobs over HTTP: large values that the SDK uploads and downloads by signed URLs that expire."""

import asyncio
import base64
import hashlib
import tempfile
import time
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.server.contents import content_response
from workbench.local_cloud.server.signed_links import Links
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.database import Database

MAX_BLOB_BYTES = 4 * 1024**3  # Modal's limit for a request body

_DDL = """
CREATE TABLE IF NOT EXISTS blobs (
  blob_id TEXT PRIMARY KEY, sha256 TEXT, size INTEGER NOT NULL, created_at REAL NOT NULL
);
"""


class BlobRoutes:
    """Makes blobs, takes their bytes by PUT and returns them by GET."""

    def __init__(self, database: Database, content: ContentStore, links: Links, *, tmp: Path) -> None:
        self._db = database
        self._content = content
        self._links = links
        self._tmp = tmp
        database.script(_DDL)
        self.routes = [
            Route("/blobs/{blob_id}", self._put, methods=["PUT"]),
            Route("/blobs/{blob_id}", self._get, methods=["GET"]),
        ]

    def promise(self, *, size: int) -> tuple[str, str]:
        """Make a blob without bytes; returns (blob id, URL to PUT its bytes to). `size` is announced by the client."""
        blob_id = new_id("bl")
        self._db.execute("INSERT INTO blobs VALUES (?,NULL,?,?)", (blob_id, size, time.time()))
        return blob_id, self._url(blob_id, "PUT")

    def keep(self, data: bytes) -> str:
        """Store bytes as a blob and return its id."""
        blob_id = new_id("bl")
        sha256 = self._content.add_bytes(data)
        self._db.execute("INSERT INTO blobs VALUES (?,?,?,?)", (blob_id, sha256, len(data), time.time()))
        return blob_id

    def sha256(self, blob_id: str) -> str | None:
        """Return the sha256 of a blob's bytes; None for an unknown blob, and before its bytes were uploaded."""
        row = self._db.one("SELECT sha256 FROM blobs WHERE blob_id=?", (blob_id,))
        return None if row is None else row["sha256"]

    def read(self, blob_id: str) -> bytes:
        """Return the bytes of a blob; raises KeyError for an unknown blob, and before its bytes were uploaded."""
        sha256 = self.sha256(blob_id)
        if sha256 is None:
            raise KeyError(blob_id)
        with self._content.open(sha256) as file:
            return file.read()

    def download_url(self, blob_id: str) -> str:
        """Return a URL from which the blob can be read for an hour."""
        return self._url(blob_id, "GET")

    def _url(self, blob_id: str, method: str) -> str:
        return self._links.make(method, f"/blobs/{blob_id}")

    async def _put(self, request: Request) -> Response:
        if (refusal := self._links.refusal(request)) is not None:
            return refusal
        blob_id = request.path_params["blob_id"]
        md5 = hashlib.md5(usedforsecurity=False)
        size = 0
        with tempfile.TemporaryFile(dir=self._tmp) as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BLOB_BYTES:
                    return PlainTextResponse(f"a blob is at most {MAX_BLOB_BYTES} bytes, this one is longer", 413)
                md5.update(chunk)
                file.write(chunk)
            file.seek(0)
            sha256 = await asyncio.to_thread(self._content.add_file, file)
        wanted = request.headers.get("content-md5")
        if wanted and wanted != base64.b64encode(md5.digest()).decode():
            return PlainTextResponse("the bytes do not have the hash in Content-MD5: send them again", 400)
        self._db.execute("UPDATE blobs SET sha256=?, size=? WHERE blob_id=?", (sha256, size, blob_id))
        return Response(status_code=200, headers={"ETag": f'"{md5.hexdigest()}"'})

    async def _get(self, request: Request) -> Response:
        if (refusal := self._links.refusal(request)) is not None:
            return refusal
        sha256 = self.sha256(request.path_params["blob_id"])
        if sha256 is None:
            return PlainTextResponse("there is no such blob, or its bytes were never uploaded", 404)
        return content_response(self._content, sha256)

"""Blobs over HTTP: large values that the SDK uploads and downloads by signed, expiring URLs."""

import asyncio
import base64
import hashlib
import tempfile
import time
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from workbench.local_cloud.base.ids import new_id
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
    """Promises blobs, takes their bytes and gives them back."""

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
        """Return (blob id, URL to PUT its bytes to)."""
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
        """The hash of a blob's bytes, or None while it has none."""
        row = self._db.one("SELECT sha256 FROM blobs WHERE blob_id=?", (blob_id,))
        return None if row is None else row["sha256"]

    def read(self, blob_id: str) -> bytes:
        """The bytes of a blob; raises KeyError when it has none."""
        sha256 = self.sha256(blob_id)
        if sha256 is None:
            raise KeyError(blob_id)
        with self._content.open(sha256) as file:
            return file.read()

    def download_url(self, blob_id: str) -> str:
        """Return a URL that gives the blob for an hour."""
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
                    return PlainTextResponse("too large", 413)
                md5.update(chunk)
                file.write(chunk)
            file.seek(0)
            sha256 = await asyncio.to_thread(self._content.add_file, file)
        wanted = request.headers.get("content-md5")
        if wanted and wanted != base64.b64encode(md5.digest()).decode():
            return PlainTextResponse("the bytes do not match Content-MD5", 400)
        self._db.execute("UPDATE blobs SET sha256=?, size=? WHERE blob_id=?", (sha256, size, blob_id))
        return Response(status_code=200, headers={"ETag": f'"{md5.hexdigest()}"'})

    async def _get(self, request: Request) -> Response:
        if (refusal := self._links.refusal(request)) is not None:
            return refusal
        sha256 = self.sha256(request.path_params["blob_id"])
        if sha256 is None:
            return PlainTextResponse("no such blob", 404)
        return FileResponse(self._content.path(sha256), media_type="application/octet-stream")

"""Mounts (sets of local files that containers see at given paths) and blobs (large values by id)."""

import asyncio
import hashlib
import time
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf import timestamp_pb2
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import invalid, not_found
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.mounts import python_mounts
from workbench.local_cloud.mounts.blob_routes import BlobRoutes
from workbench.local_cloud.store.arrivals import Arrivals
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.database import Database

CLIENT_MOUNT_PREFIX = "modal-client-"

_DDL = """
CREATE TABLE IF NOT EXISTS mounts (mount_id TEXT PRIMARY KEY, checksum TEXT NOT NULL, name TEXT);
CREATE TABLE IF NOT EXISTS mount_files (
  mount_id TEXT NOT NULL REFERENCES mounts ON DELETE CASCADE,
  filename TEXT NOT NULL, sha256 TEXT NOT NULL, mode INTEGER NOT NULL,
  PRIMARY KEY (mount_id, filename)
);
"""


class MountRpcs:
    """Handles the mount and blob RPCs, and copies mounts' files into directories for containers."""

    def __init__(self, database: Database, content: ContentStore, arrivals: Arrivals, blobs: BlobRoutes) -> None:
        self._db = database
        self._content = content
        self._arrivals = arrivals
        self._blobs = blobs
        database.script(_DDL)

    async def MountBatchedCheckExistence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, context: Any
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        """Return the sha256 of those files that must still be uploaded."""
        missing = [digest for digest in request.sha256_hex_hashes if not self._arrivals.has(_digest(digest))]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing, checked_at=_now())

    async def MountPutFile(self, request: api_pb2.MountPutFileRequest, context: Any) -> api_pb2.MountPutFileResponse:
        """Store a file, whose bytes must have the sha256; a request without bytes asks whether it is stored."""
        digest = _digest(request.sha256_hex)
        match request.WhichOneof("data_oneof"):
            case "data":
                data = request.data
                if hashlib.sha256(data).hexdigest() != digest:
                    raise invalid(f"The file's bytes do not have the sha256 {digest}: upload it again.")
                await self._arrivals.add(digest, data)
            case "data_blob_id":
                if self._blobs.sha256(request.data_blob_id) != digest:
                    raise invalid(f"The blob's bytes do not have the file's sha256 {digest}: upload it again.")
            case None if digest == hashlib.sha256(b"").hexdigest():
                self._content.add_bytes(b"")
            case None:
                pass
        return api_pb2.MountPutFileResponse(exists=self._arrivals.has(digest), checked_at=_now())

    async def MountGetOrCreate(
        self, request: api_pb2.MountGetOrCreateRequest, context: Any
    ) -> api_pb2.MountGetOrCreateResponse:
        """Make a mount of files that are stored, or find one by name. The SDK's client mount exists, without files."""
        name = request.deployment_name
        if name.startswith(python_mounts.PREFIX):
            python = await asyncio.to_thread(python_mounts.directory_of, name)
            return self._named(name, hashlib.sha256(f"{name} {python.name}".encode()).hexdigest())
        if name and not request.files:
            row = self._db.one("SELECT mount_id, checksum FROM mounts WHERE name=?", (name,))
            if row is None and not name.startswith(CLIENT_MOUNT_PREFIX):
                raise not_found(f"Mount '{name}' not found.")
            checksum = row["checksum"] if row is not None else hashlib.sha256(name.encode()).hexdigest()
            return self._named(name, checksum)
        await asyncio.to_thread(self._arrivals.keep, [file.sha256_hex for file in request.files])
        for file in request.files:
            path = PurePosixPath(file.filename)
            if not path.is_absolute() or ".." in path.parts or "\0" in file.filename:
                raise invalid(
                    f"A file's path in a mount must be absolute, without '..' and NUL, unlike {file.filename[:200]!r}."
                )
            if not self._content.has(_digest(file.sha256_hex)):
                raise invalid(f"The mount's file {file.filename[:200]!r} was not uploaded: upload it first.")
        checksum = hashlib.sha256(
            "".join(sorted(f"{file.filename}\0{file.sha256_hex}\0{_mode(file):o}\0" for file in request.files)).encode()
        ).hexdigest()
        row = self._db.one("SELECT mount_id FROM mounts WHERE checksum=? AND name IS NULL", (checksum,))
        if row is not None:
            return _answer(row["mount_id"], checksum)
        mount_id = new_id("mo")
        with self._db.transaction():
            self._db.execute("INSERT INTO mounts VALUES (?,?,NULL)", (mount_id, checksum))
            self._db.executemany(
                "INSERT OR REPLACE INTO mount_files VALUES (?,?,?,?)",
                [(mount_id, file.filename, file.sha256_hex, _mode(file)) for file in request.files],
            )
        return _answer(mount_id, checksum)

    def _named(self, name: str, checksum: str) -> api_pb2.MountGetOrCreateResponse:
        """Find the mount of a name whose contents have a checksum, or make it."""
        row = self._db.one("SELECT mount_id FROM mounts WHERE name=? AND checksum=?", (name, checksum))
        mount_id = row["mount_id"] if row is not None else new_id("mo")
        if row is None:
            self._db.execute("INSERT INTO mounts VALUES (?,?,?)", (mount_id, checksum, name))
        return _answer(mount_id, checksum)

    def checksum(self, mount_id: str) -> str:
        """Return the sha256 over a mount's file names, contents and modes; raises CloudError NOT_FOUND."""
        row = self._db.one("SELECT checksum FROM mounts WHERE mount_id=?", (mount_id,))
        if row is None:
            raise not_found(f"Mount {mount_id} not found.")
        return str(row["checksum"])

    def lay_out(self, mount_ids: list[str], root: Path) -> None:
        """Copy the files of mounts to their paths below `root`; of several with the same path the last one wins."""
        for mount_id in mount_ids:
            named = self._db.one("SELECT name FROM mounts WHERE mount_id=?", (mount_id,))
            if named is not None and (named["name"] or "").startswith(python_mounts.PREFIX):
                python_mounts.lay_out(named["name"], root)
            rows = self._db.all("SELECT * FROM mount_files WHERE mount_id=?", (mount_id,))
            for row in rows:
                name = PurePosixPath(row["filename"])
                target = root.joinpath(*name.parts[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                self._content.copy_to(row["sha256"], target)
                target.chmod(row["mode"] & 0o755 | 0o444)

    async def BlobCreate(self, request: api_pb2.BlobCreateRequest, context: Any) -> api_pb2.BlobCreateResponse:
        """Make a blob and return the URL to PUT its bytes to."""
        blob_id, url = self._blobs.promise(size=request.content_length)
        return api_pb2.BlobCreateResponse(
            blob_id=blob_id, upload_url=url, blob_ids=[blob_id], upload_urls=api_pb2.UploadUrlList(items=[url])
        )

    async def BlobGet(self, request: api_pb2.BlobGetRequest, context: Any) -> api_pb2.BlobGetResponse:
        """Return the URL from which a blob can be read."""
        if self._blobs.sha256(request.blob_id) is None:
            raise not_found(f"Blob {request.blob_id} not found.")
        return api_pb2.BlobGetResponse(download_url=self._blobs.download_url(request.blob_id))


def _mode(file: api_pb2.MountFile) -> int:
    return file.mode & 0o7777 or 0o644


def _answer(mount_id: str, checksum: str) -> api_pb2.MountGetOrCreateResponse:
    return api_pb2.MountGetOrCreateResponse(
        mount_id=mount_id, handle_metadata=api_pb2.MountHandleMetadata(content_checksum_sha256_hex=checksum)
    )


def _digest(text: str) -> str:
    if len(text) != 64 or not all(c in "0123456789abcdef" for c in text):
        raise invalid(f"A file's sha256 must be 64 lower-case hexadecimal digits, not {text[:64]!r}.")
    return text


def _now() -> timestamp_pb2.Timestamp:
    now = timestamp_pb2.Timestamp()
    now.FromNanoseconds(time.time_ns())
    return now

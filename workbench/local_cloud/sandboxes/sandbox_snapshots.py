"""Snapshots of sandboxes: the files of a sandbox outside of its volumes, stored as a tar and unpacked in others.

Packing and unpacking is done inside sandboxes; for the host a tar is only bytes, up to a limit. A snapshot is an image
with the config of the image of the sandbox from which it was taken.
"""

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.local_cloud.sandboxes.engine.execs import Exec
from workbench.local_cloud.sandboxes.engine.isolation import SNAPSHOT_PROGRAM
from workbench.local_cloud.sandboxes.engine.output_spool import OutputForgottenError, OutputLostError, Spool
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import SandboxStartFailedError
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.holes import CHUNK_BYTES

MAX_BYTES = 2 * 1024**3  # more than the three temporary file systems of a sandbox can hold
PACK_S = 300.0
UNPACK_S = 300.0
WRITABLE = ("/tmp", "/root")  # noqa: S108  # paths inside a sandbox; /dev/shm is not part of a snapshot
_MAX_COMPLAINT_BYTES = 500  # of the snapshot program's stderr, in an error

_DDL = """
CREATE TABLE IF NOT EXISTS snapshots (
  image_id TEXT PRIMARY KEY, task_id TEXT NOT NULL, snapshot_id TEXT NOT NULL, kind TEXT NOT NULL,
  base_image_id TEXT NOT NULL, sha256 TEXT NOT NULL, expires_at REAL NOT NULL, UNIQUE (task_id, snapshot_id)
);
"""


class SnapshotError(Exception):
    """A snapshot could not be packed, unpacked or unmounted; the message says why."""


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: its image's id, and the id of the sandbox's image, on which it is based.

    `kind` is "filesystem" or "directory"; `sha256` is that of the tar in the content store.
    """

    image_id: str
    kind: str
    base_image_id: str
    sha256: str


class Snapshots:
    """Packs snapshots, stores them, and unpacks them in sandboxes."""

    def __init__(self, database: Database, content: ContentStore, *, tmp: Path) -> None:
        self._db = database
        self._content = content
        self._tmp = tmp
        database.script(_DDL)

    def find(self, image_id: str) -> Snapshot | None:
        """Return a snapshot by its image's id; None when the image is no snapshot, or one that has expired."""
        row = self._db.one(
            "SELECT * FROM snapshots WHERE image_id=? AND (expires_at=0 OR expires_at>?)", (image_id, time.time())
        )
        return _snapshot(row) if row is not None else None

    def is_expired(self, image_id: str) -> bool:
        """Whether an image is a snapshot that has expired."""
        row = self._db.one("SELECT expires_at FROM snapshots WHERE image_id=?", (image_id,))
        return row is not None and 0 < row["expires_at"] <= time.time()

    def taken(self, task_id: str, snapshot_id: str) -> Snapshot | None:
        """Return the snapshot that an earlier request with the same ids has made, None if there is none."""
        row = self._db.one("SELECT * FROM snapshots WHERE task_id=? AND snapshot_id=?", (task_id, snapshot_id))
        return _snapshot(row) if row is not None else None

    async def pack(self, sandbox: Sandbox, paths: Sequence[str], *, top: str, exclude: Sequence[str]) -> str:
        """Pack directories of a sandbox into a tar, store it and return its sha256. Raises SnapshotError.

        The tar's names are relative to `top`; the paths of `exclude` are left out.
        """
        command = {"Save": {"paths": list(paths), "top": top, "exclude": list(exclude)}}
        async with _program(sandbox, command, PACK_S) as run:
            await run.write_stdin(b"", offset=0, eof=True)
            with tempfile.TemporaryFile(dir=self._tmp) as file:
                size = 0
                async for chunk in _chunks(run.stdout):
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise SnapshotError(f"it is larger than {MAX_BYTES // 1024**2} MiB")
                    await asyncio.to_thread(file.write, chunk)
                await _good_end(run)
                file.seek(0)
                return await asyncio.to_thread(self._content.add_file, file)

    def keep(self, snapshot: Snapshot, *, task_id: str, snapshot_id: str, ttl_s: float | None) -> None:
        """Store a snapshot for `ttl_s` seconds, or for ever if that is None."""
        expires_at = 0.0 if ttl_s is None else time.time() + ttl_s
        self._db.execute(
            "INSERT OR IGNORE INTO snapshots VALUES (?,?,?,?,?,?,?)",
            (
                snapshot.image_id,
                task_id,
                snapshot_id,
                snapshot.kind,
                snapshot.base_image_id,
                snapshot.sha256,
                expires_at,
            ),
        )

    async def unpack(self, sandbox: Sandbox, snapshot: Snapshot, path: str, *, mount: bool = False) -> None:
        """Unpack a snapshot below a path of a sandbox; with `mount`, in place of what is there, which is moved aside.

        Raises SnapshotError.
        """
        command = {"Mount" if mount else "Restore": {"path": path}}
        async with _program(sandbox, command, UNPACK_S) as run:
            offset = 0
            with self._content.open(snapshot.sha256) as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    if run.poll() is not None:
                        break  # it has failed; `_good_end` raises the reason
                    await run.write_stdin(chunk, offset=offset, eof=False)
                    offset += len(chunk)
            await run.write_stdin(b"", offset=offset, eof=True)
            await _good_end(run)

    async def unmount(self, sandbox: Sandbox, path: str) -> None:
        """Remove a mounted snapshot, and move what was at its path before back. Raises SnapshotError."""
        async with _program(sandbox, {"Unmount": {"path": path}}, UNPACK_S) as run:
            await _good_end(run)


@asynccontextmanager
async def _program(sandbox: Sandbox, command: dict[str, Any], timeout_s: float) -> AsyncIterator[Exec]:
    """Run the snapshot program in a sandbox while the block runs; raises SnapshotError for failures and a timeout."""
    exec_id = f"snapshot-{secrets.token_hex(8)}"
    try:
        async with asyncio.timeout(timeout_s):
            argv = [SNAPSHOT_PROGRAM, json.dumps(command)]
            run = await sandbox.exec(argv, exec_id=exec_id, workdir="/", timeout_s=timeout_s)
            try:
                yield run
            finally:
                if run.poll() is None and not sandbox.closed:
                    await sandbox.execs.kill(exec_id)
                sandbox.execs.forget(exec_id)
    except TimeoutError as error:
        raise SnapshotError(f"it was not done after {timeout_s:.0f} s") from error
    except (SandboxStartFailedError, OutputForgottenError, OutputLostError, ValueError) as error:
        raise SnapshotError(str(error)) from error


async def _chunks(spool: Spool) -> AsyncIterator[bytes]:
    offset = 0
    while data := await spool.read(offset):
        offset += len(data)
        yield data


async def _good_end(run: Exec) -> None:
    status = await run.wait()
    if status.code != 0:
        complaint = (await run.stderr.read(0, max_bytes=_MAX_COMPLAINT_BYTES)).decode("utf-8", "replace")
        printable = "".join(character for character in complaint if character.isprintable()).strip()
        raise SnapshotError(printable or "the sandbox has ended, or its snapshot program was killed")


def _snapshot(row: Any) -> Snapshot:
    return Snapshot(row["image_id"], row["kind"], row["base_image_id"], row["sha256"])

"""Snapshots of sandboxes: what a sandbox can write apart from its volumes, kept as a tar and unpacked in others.

Only guests pack and unpack; here a tar is bytes of a bounded size. A snapshot is an image with files: its environment
is that of the image of the sandbox that it was taken of.
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
from workbench.local_cloud.sandboxes.engine.output_spool import OutputForgottenError, Spool
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import SandboxStartFailedError
from workbench.local_cloud.store.content import CHUNK_BYTES, ContentStore
from workbench.local_cloud.store.database import Database

MAX_BYTES = 2 * 1024**3  # as much as three temporary file systems of a sandbox hold, with room
PACK_S = 300.0
UNPACK_S = 300.0
WRITABLE = ("/tmp", "/root")  # noqa: S108  # paths inside a sandbox; its shared memory is nobody's file system
_MAX_TOLD = 500

_DDL = """
CREATE TABLE IF NOT EXISTS snapshots (
  image_id TEXT PRIMARY KEY, task_id TEXT NOT NULL, snapshot_id TEXT NOT NULL, kind TEXT NOT NULL,
  base_image_id TEXT NOT NULL, sha256 TEXT NOT NULL, expires_at REAL NOT NULL, UNIQUE (task_id, snapshot_id)
);
"""


class SnapshotError(Exception):
    """It cannot be packed or unpacked; the message says why."""


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: `kind` is "filesystem" or "directory"."""

    image_id: str
    kind: str
    base_image_id: str
    sha256: str


class Snapshots:
    """Takes snapshots, keeps them, and puts them into sandboxes."""

    def __init__(self, database: Database, content: ContentStore, *, tmp: Path) -> None:
        self._db = database
        self._content = content
        self._tmp = tmp
        database.script(_DDL)

    def find(self, image_id: str) -> Snapshot | None:
        """A snapshot by its image's id; None when the image is none, or has expired."""
        row = self._db.one(
            "SELECT * FROM snapshots WHERE image_id=? AND (expires_at=0 OR expires_at>?)", (image_id, time.time())
        )
        return _snapshot(row) if row is not None else None

    def is_expired(self, image_id: str) -> bool:
        """Whether an image is a snapshot whose time is over."""
        row = self._db.one("SELECT expires_at FROM snapshots WHERE image_id=?", (image_id,))
        return row is not None and 0 < row["expires_at"] <= time.time()

    def taken(self, task_id: str, snapshot_id: str) -> Snapshot | None:
        """The snapshot that a client's request has made already."""
        row = self._db.one("SELECT * FROM snapshots WHERE task_id=? AND snapshot_id=?", (task_id, snapshot_id))
        return _snapshot(row) if row is not None else None

    async def pack(self, sandbox: Sandbox, paths: Sequence[str], *, top: str, exclude: Sequence[str]) -> str:
        """Pack directories of a sandbox; returns the hash of what is kept. Raises SnapshotError."""
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
        """Keep a snapshot for `ttl_s` seconds, None being for ever."""
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
        """Unpack below a path of a sandbox, or as all that is seen there with `mount`. Raises SnapshotError."""
        command = {"Mount" if mount else "Restore": {"path": path}}
        async with _program(sandbox, command, UNPACK_S) as run:
            offset = 0
            with self._content.open(snapshot.sha256) as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    if run.poll() is not None:
                        break  # it has failed: its end says why
                    await run.write_stdin(chunk, offset=offset, eof=False)
                    offset += len(chunk)
            await run.write_stdin(b"", offset=offset, eof=True)
            await _good_end(run)

    async def unmount(self, sandbox: Sandbox, path: str) -> None:
        """Show again what a mounted snapshot hid. Raises SnapshotError."""
        async with _program(sandbox, {"Unmount": {"path": path}}, UNPACK_S) as run:
            await _good_end(run)


@asynccontextmanager
async def _program(sandbox: Sandbox, command: dict[str, Any], timeout_s: float) -> AsyncIterator[Exec]:
    """Run the snapshot program for as long as the block lasts; what goes wrong is a SnapshotError."""
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
        raise SnapshotError(f"it took longer than {timeout_s:.0f} s") from error
    except (SandboxStartFailedError, OutputForgottenError, ValueError) as error:
        raise SnapshotError(str(error)) from error


async def _chunks(spool: Spool) -> AsyncIterator[bytes]:
    offset = 0
    while data := await spool.read(offset):
        offset += len(data)
        yield data


async def _good_end(run: Exec) -> None:
    status = await run.wait()
    if status.code != 0:
        said = (await run.stderr.read(0, max_bytes=_MAX_TOLD)).decode("utf-8", "replace")
        told = "".join(character for character in said if character.isprintable()).strip()
        raise SnapshotError(told or "the sandbox has ended, or its snapshot program was killed")


def _snapshot(row: Any) -> Snapshot:
    return Snapshot(row["image_id"], row["kind"], row["base_image_id"], row["sha256"])

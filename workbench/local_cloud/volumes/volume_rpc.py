"""Volume RPCs: names, upload and download of files by blocks, and function containers' commits and reloads."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import failed_precondition, invalid
from workbench.local_cloud.server.callers import caller
from workbench.local_cloud.server.unsupported import refuse_options
from workbench.local_cloud.store.arrivals import Arrivals
from workbench.local_cloud.store.content import EMPTY_SHA256, Batch, ContentStore
from workbench.local_cloud.store.ephemeral import Ephemeral
from workbench.local_cloud.store.names import Objects
from workbench.local_cloud.volumes.block_routes import BLOCK_BYTES, VolumeRoutes
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, clean
from workbench.local_cloud.volumes.mounted_tree import SeenAt
from workbench.local_cloud.volumes.open_files import Holder, holders, sentence
from workbench.local_cloud.volumes.uploads import VolumeFiles
from workbench.local_cloud.volumes.working_copies import WorkingCopy

_PAGE = 1000
_CALLS_NAMED = 4  # in a commit's author; a container may work on hundreds of calls at once
_MAX_FILE_BYTES = 1 << 40  # Modal's limit for one file
_KINDS = {"file": api_pb2.FileEntry.FILE, "dir": api_pb2.FileEntry.DIRECTORY, "symlink": api_pb2.FileEntry.SYMLINK}


@dataclass(frozen=True)
class Mounts:
    """A function container's working copies by mount path, its process id, and the ids of its current calls."""

    pid: int = 0
    copies: Mapping[str, WorkingCopy] = field(default_factory=dict)
    calls: tuple[str, ...] = ()


class VolumeRpcs:
    """Handles the volume RPCs; `mounts_of` returns what the function container with a task id has mounted."""

    def __init__(
        self,
        objects: Objects,
        ephemeral: Ephemeral,
        committed: CommittedVolumes,
        content: ContentStore,
        arrivals: Arrivals,
        routes: VolumeRoutes,
        *,
        mounts_of: Callable[[str], Mounts],
    ) -> None:
        self._objects = objects
        self._ephemeral = ephemeral
        self._committed = committed
        self._content = content
        self._arrivals = arrivals
        self._routes = routes
        self._files = VolumeFiles(committed)
        self._mounts_of = mounts_of

    # -- names -------------------------------------------------------------------------------------------------------

    async def VolumeGetOrCreate(
        self, request: api_pb2.VolumeGetOrCreateRequest, context: Any
    ) -> api_pb2.VolumeGetOrCreateResponse:
        """Find or create a volume; a new one has version 1 unless the request names another, as on Modal."""
        refuse_options("A volume", request.create_options, ())
        with self._committed.transaction():
            volume_id, created = self._objects.get_or_create(
                "volume",
                "vo",
                environment=request.environment_name,
                name=request.deployment_name,
                creation_type=request.object_creation_type,
            )
            if created:
                self._committed.create(volume_id, version=request.version or api_pb2.VOLUME_FS_VERSION_V1)
                if not self._objects.describe("volume", volume_id)[1]:
                    self._ephemeral.add(volume_id)
        version = self._committed.version(volume_id)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume_id,
            version=version,  # type: ignore[arg-type]  # stored as the enum's number
            metadata=self.metadata(volume_id),
        )

    def named(self, name: str) -> str:
        """Return the id of the default environment's volume of this name; raises CloudError NOT_FOUND."""
        volume_id, _ = self._objects.get_or_create(
            "volume", "vo", environment="", name=name, creation_type=api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED
        )
        return volume_id

    def metadata(self, volume_id: str) -> api_pb2.VolumeMetadata:
        """Return what the SDK keeps about a volume: version, name, creation; raises CloudError NOT_FOUND."""
        _, name, created_at = self._objects.describe("volume", volume_id)
        return api_pb2.VolumeMetadata(
            version=self._committed.version(volume_id),  # type: ignore[arg-type]  # stored as the enum's number
            name=name,
            creation_info=api_pb2.CreationInfo(created_at=created_at, created_by="local"),
        )

    async def VolumeGetById(self, request: api_pb2.VolumeGetByIdRequest, context: Any) -> api_pb2.VolumeGetByIdResponse:
        """Look a volume up by id."""
        return api_pb2.VolumeGetByIdResponse(volume_id=request.volume_id, metadata=self.metadata(request.volume_id))

    async def VolumeList(self, request: api_pb2.VolumeListRequest, context: Any) -> api_pb2.VolumeListResponse:
        """List named volumes, newest first."""
        response = api_pb2.VolumeListResponse(environment_name=request.environment_name)
        for volume_id, name, created_at in self._objects.list(
            "volume",
            environment=request.environment_name,
            created_before=request.pagination.created_before,
            limit=request.pagination.max_objects,
        ):
            response.items.add(
                label=name, volume_id=volume_id, created_at=created_at, metadata=self.metadata(volume_id)
            )
        return response

    async def VolumeRename(self, request: api_pb2.VolumeRenameRequest, context: Any) -> empty_pb2.Empty:
        """Rename a volume."""
        if not request.name:
            raise invalid("A volume's name must not be empty.")
        self._objects.rename("volume", request.volume_id, request.name)
        return empty_pb2.Empty()

    async def VolumeDelete(self, request: api_pb2.VolumeDeleteRequest, context: Any) -> empty_pb2.Empty:
        """Delete a volume, its files and its history."""
        self._drop(request.volume_id)
        return empty_pb2.Empty()

    def _drop(self, volume_id: str) -> None:
        with self._committed.transaction():
            self._objects.delete("volume", volume_id)
            self._committed.drop(volume_id)

    async def VolumeHeartbeat(self, request: api_pb2.VolumeHeartbeatRequest, context: Any) -> empty_pb2.Empty:
        """Keep an ephemeral volume alive."""
        self._ephemeral.touch(request.volume_id)
        return empty_pb2.Empty()

    def drop_abandoned(self) -> None:
        """Delete ephemeral volumes whose owner has sent no heartbeat for too long."""
        for volume_id in self._ephemeral.abandoned("volume"):
            self._drop(volume_id)

    # -- files -------------------------------------------------------------------------------------------------------

    async def VolumeListFiles2(
        self, request: api_pb2.VolumeListFiles2Request, context: Any
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        """List files in batches."""
        for batch in self._batches(request):
            yield api_pb2.VolumeListFiles2Response(entries=batch)

    async def VolumeListFiles(
        self, request: api_pb2.VolumeListFilesRequest, context: Any
    ) -> AsyncIterator[api_pb2.VolumeListFilesResponse]:
        """List files in batches."""
        for batch in self._batches(request):
            yield api_pb2.VolumeListFilesResponse(entries=batch)

    def _batches(
        self, request: api_pb2.VolumeListFiles2Request | api_pb2.VolumeListFilesRequest
    ) -> Iterator[list[api_pb2.FileEntry]]:
        found = self._files.entries(request.volume_id, request.path, recursive=request.recursive)
        if request.HasField("max_entries"):
            found = found[: request.max_entries]
        for start in range(0, len(found), _PAGE):
            yield [
                api_pb2.FileEntry(
                    path=entry.path,
                    type=_KINDS[entry.kind],
                    mtime=max(0, int(entry.mtime)),  # unsigned: a file may be dated before 1970
                    size=entry.size,
                )
                for entry in found[start : start + _PAGE]
            ]

    async def VolumeGetFile2(
        self, request: api_pb2.VolumeGetFile2Request, context: Any
    ) -> api_pb2.VolumeGetFile2Response:
        """Return URLs for the blocks of a range of a file; a length of 0 means to its end."""
        entry = self._files.file(request.volume_id, request.path)
        start = min(request.start, entry.size)
        length = min(request.len or entry.size, entry.size - start)
        return api_pb2.VolumeGetFile2Response(
            get_urls=self._routes.download_urls(entry.sha256, start=start, length=length),
            size=entry.size,
            start=start,
            len=length,
        )

    async def VolumePutFiles2(
        self, request: api_pb2.VolumePutFiles2Request, context: Any
    ) -> api_pb2.VolumePutFiles2Response:
        """Return the blocks that must be uploaded first; when none is missing, put the files."""
        response = api_pb2.VolumePutFiles2Response()
        asked: set[str] = set()
        for file_index, file in enumerate(request.files):
            if file.size > _MAX_FILE_BYTES or len(file.blocks) != -(-file.size // BLOCK_BYTES):
                raise invalid(
                    f"'{file.path[:200]}' has {file.size} bytes and {len(file.blocks)} blocks: a file is at most "
                    f"{_MAX_FILE_BYTES} bytes, with one block for each {BLOCK_BYTES} bytes."
                )
            for block_index, block in enumerate(file.blocks):
                sha256 = _hash(block.contents_sha256)
                if sha256 == EMPTY_SHA256 or sha256 in asked or self._arrivals.has(sha256):
                    continue
                asked.add(sha256)
                response.missing_blocks.add(
                    file_index=file_index, block_index=block_index, put_url=self._routes.upload_url(sha256)
                )
        if response.missing_blocks:
            return response
        contents = await asyncio.to_thread(self._kept, request.files)
        entries = [
            Entry(
                clean(file.path),
                "file",
                (file.mode or 0o644) & 0o777,
                size=file.size,
                sha256=sha256,
                mtime=time.time(),
            )
            for file, sha256 in zip(request.files, contents, strict=True)
        ]
        self._files.put(request.volume_id, entries, overwrite=not request.disallow_overwrite_existing_files)
        return response

    def _kept(self, files: Sequence[api_pb2.VolumePutFiles2Request.File]) -> list[str]:
        """Keep the contents of files, whose blocks have arrived, and return the sha256 of each."""
        self._arrivals.keep(_hash(block.contents_sha256) for file in files for block in file.blocks)
        with self._content.batch() as batch:
            return [self._joined(file, batch) for file in files]

    def _joined(self, file: api_pb2.VolumePutFiles2Request.File, batch: Batch) -> str:
        """Add a file's content, joined from its blocks, and return its sha256. Clients cut zeros at a block's end."""
        lengths = [min(BLOCK_BYTES, file.size - start) for start in range(0, file.size, BLOCK_BYTES)]
        hashes = [_hash(block.contents_sha256) for block in file.blocks]
        if len(hashes) == 1 and hashes[0] != EMPTY_SHA256 and self._content.size(hashes[0]) == file.size:
            return hashes[0]  # the block is the file

        def chunks() -> Iterator[bytes]:
            for sha256, length in zip(hashes, lengths, strict=True):
                data = b"" if sha256 == EMPTY_SHA256 else self._content.read(sha256)
                if len(data) > length:
                    raise invalid(f"A block of '{file.path[:200]}' has {len(data)} bytes, its place only {length}.")
                yield data.ljust(length, b"\0")

        return batch.add_chunks(chunks()).sha256

    async def VolumePutFiles(self, request: api_pb2.VolumePutFilesRequest, context: Any) -> empty_pb2.Empty:
        """Put files of a version 1 volume, whose contents were uploaded by sha256 before."""
        entries = []
        await asyncio.to_thread(self._arrivals.keep, [file.sha256_hex for file in request.files])
        for file in request.files:
            sha256 = _hash_text(file.sha256_hex)
            if not self._content.has(sha256):
                raise invalid(f"The content {sha256} of '{file.filename[:200]}' was not uploaded: upload it first.")
            size = self._content.size(sha256)
            mode = (file.mode or 0o644) & 0o777
            entries.append(Entry(clean(file.filename), "file", mode, size=size, sha256=sha256, mtime=time.time()))
        self._files.put(request.volume_id, entries, overwrite=not request.disallow_overwrite_existing_files)
        return empty_pb2.Empty()

    async def VolumeRemoveFile2(self, request: api_pb2.VolumeRemoveFile2Request, context: Any) -> empty_pb2.Empty:
        """Remove a file or a tree."""
        self._files.remove(request.volume_id, request.path, recursive=request.recursive)
        return empty_pb2.Empty()

    async def VolumeRemoveFile(self, request: api_pb2.VolumeRemoveFileRequest, context: Any) -> empty_pb2.Empty:
        """Remove a file or a tree."""
        self._files.remove(request.volume_id, request.path, recursive=request.recursive)
        return empty_pb2.Empty()

    async def VolumeCopyFiles2(self, request: api_pb2.VolumeCopyFiles2Request, context: Any) -> empty_pb2.Empty:
        """Copy files inside a volume."""
        self._files.copy(request.volume_id, list(request.src_paths), request.dst_path, recursive=request.recursive)
        return empty_pb2.Empty()

    async def VolumeCopyFiles(self, request: api_pb2.VolumeCopyFilesRequest, context: Any) -> empty_pb2.Empty:
        """Copy files inside a volume."""
        self._files.copy(request.volume_id, list(request.src_paths), request.dst_path, recursive=request.recursive)
        return empty_pb2.Empty()

    # -- mounts ------------------------------------------------------------------------------------------------------

    async def VolumeCommit(self, request: api_pb2.VolumeCommitRequest, context: Any) -> api_pb2.VolumeCommitResponse:
        """Commit the calling container's own mount; as on Modal, a sandbox's writes are not part of it.

        Then reload it, unless processes keep the mount busy. In that case the client reloads it itself and gets the
        error that names them.
        """
        own = self._own_mounts(request.volume_id)
        await _commit(own)
        busy = await _holders(own)
        if not busy:
            await _reload(own)
        return api_pb2.VolumeCommitResponse(skip_reload=not busy)

    async def VolumeReload(self, request: api_pb2.VolumeReloadRequest, context: Any) -> empty_pb2.Empty:
        """Commit what the calling container has written, and make newer commits of others visible in its mount.

        Raises CloudError FAILED_PRECONDITION while processes keep the mount busy.
        """
        own = self._own_mounts(request.volume_id)
        if found := await _holders(own):
            raise failed_precondition(sentence(found))
        await _commit(own)
        await _reload(own)
        return empty_pb2.Empty()

    def _own_mounts(self, volume_id: str) -> Mounts:
        self._committed.version(volume_id)
        mounts = self._mounts_of(caller.get().task_id or "")
        own = {path: copy for path, copy in mounts.copies.items() if copy.volume_id == volume_id}
        if not own:
            raise failed_precondition("commit() and reload() work only inside a container that mounts the volume.")
        return Mounts(mounts.pid, own, mounts.calls)


async def _commit(own: Mounts) -> None:
    calls = "".join(f" call={call_id}" for call_id in own.calls[:_CALLS_NAMED])
    for copy in own.copies.values():
        await copy.commit(f"container:{caller.get().task_id}{calls}")


async def _holders(own: Mounts) -> list[Holder]:
    return [holder for path in own.copies for holder in await asyncio.to_thread(holders, own.pid, path)]


async def _reload(own: Mounts) -> None:
    for path, copy in own.copies.items():
        await copy.reload(SeenAt(own.pid, path, copy.read_only))


def _hash(digest: bytes) -> str:
    if len(digest) != 32:
        raise invalid(f"A block's sha256 must be 32 bytes, not {len(digest)}.")
    return digest.hex()


def _hash_text(text: str) -> str:
    if len(text) != 64 or not all(character in "0123456789abcdef" for character in text):
        raise invalid(f"A file's sha256 must be 64 lower-case hexadecimal digits, not {text[:64]!r}.")
    return text

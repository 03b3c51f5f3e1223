"""The sandbox RPCs of version 1, for SDKs that choose them or have no others. The sandboxes are the same as in V2.

SDKs see from a sandbox's id which version to use for it: an id made here has 22 characters behind the dash. The only
difference is that a program's input and output go through the control plane. SDKs always use V1 for GPUs, network file
systems and sandboxes with a terminal; these are refused by name.
"""

import asyncio
import codecs
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import CloudError, Reason, failed_precondition, invalid, not_found
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.sandboxes.engine.output_spool import OutputForgottenError, OutputLostError
from workbench.local_cloud.sandboxes.port_rpc import SandboxPortRpcs
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.sandboxes.sandbox_rpc import SandboxRpcs
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes

_ID_CHARS = 22  # in ids of V1; those of V2 have 26
_ID = re.compile(rf"sb-[A-Za-z0-9]{{{_ID_CHARS}}}", re.ASCII)
_ENTRY = re.compile(r"(\d{1,15})-0", re.ASCII)
_MAX_WAIT_S = 60.0


@dataclass
class _Input:
    """The last write to a program's input: its index, and the byte offset to which a retry writes again."""

    index: int = 0
    offset: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class SandboxRpcsV1:
    """Handles the RPCs of V1 sandboxes."""

    def __init__(self, sandboxes: Sandboxes, v2: SandboxRpcs, ports: SandboxPortRpcs) -> None:
        """`v2` and `ports` handle the V2 RPCs, which most of these RPCs call."""
        self._sandboxes = sandboxes
        self._v2 = v2
        self._ports = ports
        self._inputs: WeakKeyDictionary[Record, _Input] = WeakKeyDictionary()

    async def SandboxCreate(self, request: api_pb2.SandboxCreateRequest, context: Any) -> api_pb2.SandboxCreateResponse:
        """Start a sandbox; options that are not implemented are refused by name."""
        definition = request.definition
        asked = ""
        if definition.resources.gpu_config.gpu_type or definition.resources.gpu_config.type:
            asked = "gpu"
        elif definition.nfs_mounts:
            asked = "network_file_systems"
        elif definition.HasField("pty_info"):
            asked = "pty"
        if asked:
            raise CloudError(
                Reason.UNIMPLEMENTED,
                f"Sandbox.create with {asked} is not implemented by the local cloud: leave it out.",
            )
        record = await self._v2.create(
            api_pb2.SandboxCreateV2Request(app_id=request.app_id, definition=definition, tags=request.tags),
            sandbox_id=new_id("sb", length=_ID_CHARS),
        )
        return api_pb2.SandboxCreateResponse(
            sandbox_id=record.sandbox_id, metadata=api_pb2.SandboxHandleMetadata(app_id=record.app_id)
        )

    async def SandboxGetFromName(
        self, request: api_pb2.SandboxGetFromNameRequest, context: Any
    ) -> api_pb2.SandboxGetFromNameResponse:
        """Find a V1 sandbox by its app's name and its own name."""
        found = await self._v2.SandboxGetFromNameV2(request, context)
        if not _ID.fullmatch(found.sandbox_id):
            raise not_found(f"Sandbox '{request.sandbox_name}' of app '{request.app_name}' not found.")
        return found

    async def SandboxList(self, request: api_pb2.SandboxListRequest, context: Any) -> api_pb2.SandboxListResponse:
        """List a page of V1 sandboxes, newest first. V2's list has them, too."""
        return self._v2.page(request, lambda record: _ID.fullmatch(record.sandbox_id) is not None)

    async def SandboxWait(self, request: api_pb2.SandboxWaitRequest, context: Any) -> api_pb2.SandboxWaitResponse:
        """Wait for a sandbox's end."""
        return await self._v2.SandboxWaitV2(request, context)

    async def SandboxTerminate(
        self, request: api_pb2.SandboxTerminateRequest, context: Any
    ) -> api_pb2.SandboxTerminateResponse:
        """Terminate a sandbox."""
        return await self._v2.SandboxTerminateV2(request, context)

    async def SandboxGetTaskId(
        self, request: api_pb2.SandboxGetTaskIdRequest, context: Any
    ) -> api_pb2.SandboxGetTaskIdResponse:
        """Return a sandbox's task id, which it has from its creation on."""
        return await self._v2.SandboxGetTaskIdV2(request, context)

    async def SandboxTagsSet(self, request: api_pb2.SandboxTagsSetRequest, context: Any) -> empty_pb2.Empty:
        """Replace a sandbox's tags."""
        return await self._v2.SandboxTagsSetV2(request, context)

    async def SandboxTagsGet(
        self, request: api_pb2.SandboxTagsGetRequest, context: Any
    ) -> api_pb2.SandboxTagsGetResponse:
        """Return a sandbox's tags."""
        return await self._v2.SandboxTagsGetV2(request, context)

    async def SandboxGetTunnels(
        self, request: api_pb2.SandboxGetTunnelsRequest, context: Any
    ) -> api_pb2.SandboxGetTunnelsResponse:
        """Return the addresses of a sandbox's tunnels."""
        return await self._ports.SandboxGetTunnelsV2(request, context)

    async def SandboxCreateConnectToken(
        self, request: api_pb2.SandboxCreateConnectTokenRequest, context: Any
    ) -> api_pb2.SandboxCreateConnectTokenResponse:
        """Make a token for HTTP requests to one port of a sandbox."""
        return await self._ports.SandboxCreateConnectTokenV2(request, context)

    async def TaskGetCommandRouterAccess(
        self, request: api_pb2.TaskGetCommandRouterAccessRequest, context: Any
    ) -> api_pb2.TaskGetCommandRouterAccessResponse:
        """Return a token for the router, for a sandbox. Containers of functions cannot be reached by it."""
        try:
            access = await self._v2.SandboxGetCommandRouterAccess(
                api_pb2.SandboxGetCommandRouterAccessRequest(task_id=request.task_id), context
            )
        except CloudError as failure:
            raise CloudError(
                Reason.UNIMPLEMENTED,
                f"{request.task_id[:64]} is not the task of a sandbox; starting programs in containers of functions "
                "is not implemented by the local cloud.",
            ) from failure
        return api_pb2.TaskGetCommandRouterAccessResponse(jwt=access.jwt, url=access.url)

    async def SandboxStdinWrite(
        self, request: api_pb2.SandboxStdinWriteRequest, context: Any
    ) -> api_pb2.SandboxStdinWriteResponse:
        """Write to the program's input. Writes are numbered from 1; the last one may be repeated."""
        record = self._sandboxes.get(request.sandbox_id)
        run = record.entrypoint
        if record.sandbox is None or record.result is not None:
            raise failed_precondition(f"The sandbox {record.sandbox_id} has ended.")
        if run is None:
            raise failed_precondition(f"The sandbox {record.sandbox_id} was created without a program.")
        last = self._inputs.setdefault(record, _Input())
        async with last.lock:
            if request.index == last.index + 1:
                last.index, last.offset = request.index, run.stdin_bytes_written
            elif request.index != last.index or not request.index:
                raise invalid(f"The next write to stdin must have the index {last.index + 1}, not {request.index}.")
            record.sandbox.touch()
            await run.write_stdin(request.input, offset=last.offset, eof=request.eof)
        return api_pb2.SandboxStdinWriteResponse()

    async def SandboxGetLogs(
        self, request: api_pb2.SandboxGetLogsRequest, context: Any
    ) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """Stream the program's output after `last_entry_id` as text.

        After the request's timeout the stream ends without `eof`, and the SDK asks again.
        """
        run = self._sandboxes.get(request.sandbox_id).entrypoint
        offset = _offset(request.last_entry_id)
        stderr = request.file_descriptor == api_pb2.FILE_DESCRIPTOR_STDERR
        deadline = time.monotonic() + min(max(request.timeout, 0.0), _MAX_WAIT_S)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        data = b"more"
        while run is not None and data:
            spool = run.stderr if stderr else run.stdout
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    data = await spool.read(offset)
            except TimeoutError:
                return
            except (OutputForgottenError, OutputLostError) as error:
                raise CloudError(Reason.DATA_LOSS, f"{error}.") from error
            offset += len(data)
            text = decoder.decode(data, final=not data)
            if text:
                # The entry's id is the offset after its last whole character, where a client that resumes begins.
                whole = offset - len(decoder.getstate()[0])
                item = api_pb2.TaskLogs(data=text, file_descriptor=request.file_descriptor, timestamp=time.time())
                yield api_pb2.TaskLogsBatch(entry_id=f"{whole}-0", items=[item], sandbox_id=request.sandbox_id)
        yield api_pb2.TaskLogsBatch(entry_id=f"{offset}-0", eof=True, sandbox_id=request.sandbox_id)


def _offset(entry_id: str) -> int:
    if not entry_id:
        return 0
    found = _ENTRY.fullmatch(entry_id)
    if found is None:
        raise invalid(f"last_entry_id must be empty or an entry_id of this log, not {entry_id[:50]!r}.")
    return int(found.group(1))

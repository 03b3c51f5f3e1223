"""The task command router: programs in sandboxes, their input, output and end. A token is valid for one sandbox."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from modal_proto import api_pb2
from modal_proto import task_command_router_pb2 as tcr

from workbench.local_cloud.base.descriptors import OF_A_PROGRAM
from workbench.local_cloud.base.errors import CloudError, Reason, failed_precondition, invalid, not_found
from workbench.local_cloud.objects.secrets import SecretRpcs
from workbench.local_cloud.sandboxes.engine.execs import Exec
from workbench.local_cloud.sandboxes.engine.output_spool import OutputForgottenError, OutputLostError, Spool
from workbench.local_cloud.sandboxes.engine.spec import ExitStatus, SandboxStartFailedError
from workbench.local_cloud.sandboxes.sandbox_records import Record
from workbench.local_cloud.sandboxes.sandbox_rpc import egress_policy
from workbench.local_cloud.sandboxes.sandboxes import Sandboxes
from workbench.local_cloud.server.callers import caller

_LONG_POLL_S = 55.0
_MAX_READY_S = 24 * 3600.0  # no sandbox lives longer
# A program's timeout is enforced by the client, too, which then reports -1 as on Modal. Here it is this much longer: if
# the program were killed first, the client would report a signal instead.
_CLIENT_AHEAD_S = 0.5
_MAX_ARGUMENT_CHARS = 65_536  # Modal's limit for all arguments together


class RouterRpcs:
    """Handles the router's RPCs, each for the sandbox that the caller's token is valid for."""

    def __init__(self, sandboxes: Sandboxes, secrets: SecretRpcs) -> None:
        self._sandboxes = sandboxes
        self._secrets = secrets

    async def TaskExecStart(self, request: tcr.TaskExecStartRequest, context: Any) -> tcr.TaskExecStartResponse:
        """Start a program; a retry with the same exec id starts no second one."""
        record = self._own(request.task_id)
        if request.container_id:
            raise CloudError(Reason.UNIMPLEMENTED, "Sidecar containers are not implemented by the local cloud.")
        if not request.command_args or sum(map(len, request.command_args)) > _MAX_ARGUMENT_CHARS:
            raise invalid(
                f"A program's arguments must be one or more, with at most {_MAX_ARGUMENT_CHARS} characters together, "
                f"not {len(request.command_args)} with {sum(map(len, request.command_args))}."
            )
        env = {
            **self._secrets.resolve(request.secret_ids),
            **self._secrets.resolve(request.secret_sources),
            **dict(request.env),
        }
        if record.sandbox is None or record.result is not None:
            raise failed_precondition(f"The sandbox {record.sandbox_id} has ended.")
        terminal = _terminal(request.pty_info) if request.pty_info.enabled else None
        if terminal is not None:
            env = {**_terminal_env(request.pty_info), **env}
        try:
            with self._sandboxes.descriptors.reserved(OF_A_PROGRAM, what="Another program"):
                await record.sandbox.exec(
                    list(request.command_args),
                    exec_id=request.exec_id,
                    env=env,
                    workdir=request.workdir or None,
                    timeout_s=request.timeout_secs + _CLIENT_AHEAD_S if request.timeout_secs else None,
                    terminal=terminal,
                    devnull=_devnull(request),
                )
        except (SandboxStartFailedError, ValueError) as error:
            raise failed_precondition(str(error)) from error
        return tcr.TaskExecStartResponse()

    async def TaskExecStdioRead(
        self, request: tcr.TaskExecStdioReadRequest, context: Any
    ) -> AsyncIterator[tcr.TaskExecStdioReadResponse]:
        """Stream a program's output from a byte offset to its end."""
        run = self._exec(request.task_id, request.exec_id)
        stderr = request.file_descriptor == tcr.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDERR
        async for _, data in _chunks(run.stderr if stderr else run.stdout, request.offset):
            yield tcr.TaskExecStdioReadResponse(data=data)

    async def TaskExecWait(self, request: tcr.TaskExecWaitRequest, context: Any) -> tcr.TaskExecWaitResponse:
        """Wait for a program's end; after 55 s raise DEADLINE_EXCEEDED, on which the client asks again."""
        run = self._exec(request.task_id, request.exec_id)
        try:
            status = await asyncio.wait_for(run.wait(), _LONG_POLL_S)
        except TimeoutError as error:
            raise CloudError(Reason.DEADLINE_EXCEEDED, "The program still runs: ask again.") from error
        return tcr.TaskExecWaitResponse(**_status(status))

    async def TaskExecPoll(self, request: tcr.TaskExecPollRequest, context: Any) -> tcr.TaskExecPollResponse:
        """Return how a program ended; the answer is empty while it runs."""
        status = self._exec(request.task_id, request.exec_id).poll()
        return tcr.TaskExecPollResponse(**(_status(status) if status is not None else {}))

    async def TaskExecStdinWrite(
        self, request: tcr.TaskExecStdinWriteRequest, context: Any
    ) -> tcr.TaskExecStdinWriteResponse:
        """Write to a program's input at a byte offset; bytes that were written before are skipped."""
        await _write(self._exec(request.task_id, request.exec_id), request.data, request.offset, request.eof)
        return tcr.TaskExecStdinWriteResponse()

    async def TaskExecStdinStatus(
        self, request: tcr.TaskExecStdinStatusRequest, context: Any
    ) -> tcr.TaskExecStdinStatusResponse:
        """Return how many bytes of input a program has got, and whether its input is closed."""
        run = self._exec(request.task_id, request.exec_id)
        return tcr.TaskExecStdinStatusResponse(num_bytes_written=run.stdin_bytes_written, closed=run.stdin_closed)

    async def TaskExecStdinWriteStream(
        self, requests: AsyncIterator[tcr.TaskExecStdinWriteStreamRequest], context: Any
    ) -> tcr.TaskExecStdinWriteStreamResponse:
        """Write a stream of input."""
        run: Exec | None = None
        offset = 0
        async for request in requests:
            match request.WhichOneof("payload"):
                case "start":
                    run = self._exec(request.start.task_id, request.start.exec_id)
                    offset = request.start.offset
                case "data" if run is not None:
                    await _write(run, request.data, offset, eof=False)
                    offset += len(request.data)
                case "end" if run is not None:
                    await _write(run, b"", offset, eof=True)
                case _:
                    raise invalid("A TaskExecStdinWriteStream must begin with `start`, then send `data` and `end`.")
        return tcr.TaskExecStdinWriteStreamResponse()

    async def SandboxStdioReadV2(
        self, request: tcr.SandboxStdioReadV2Request, context: Any
    ) -> AsyncIterator[tcr.SandboxStdioReadV2Response]:
        """Stream the output of the sandbox's entrypoint."""
        run = self._own(request.task_id).entrypoint
        if run is None:
            return
        stderr = request.file_descriptor == tcr.SANDBOX_STDIO_FILE_DESCRIPTOR_STDERR
        async for offset, data in _chunks(run.stderr if stderr else run.stdout, request.offset):
            yield tcr.SandboxStdioReadV2Response(data=data, starting_offset=offset)

    async def SandboxStdinWriteV2(
        self, request: tcr.SandboxStdinWriteV2Request, context: Any
    ) -> tcr.SandboxStdinWriteV2Response:
        """Write to the entrypoint's input."""
        record = self._own(request.task_id)
        run = record.entrypoint
        if run is None or record.sandbox is None:
            raise failed_precondition("The sandbox was created without a program.")
        record.sandbox.touch()
        await _write(run, request.data, request.offset, request.eof)
        return tcr.SandboxStdinWriteV2Response()

    async def SandboxWaitUntilReady(
        self, request: tcr.SandboxWaitUntilReadyTcrRequest, context: Any
    ) -> tcr.SandboxWaitUntilReadyTcrResponse:
        """Wait until the readiness probe of a sandbox succeeds."""
        record = self._own(request.task_id)
        if record.readiness is None:
            raise invalid(f"The sandbox {record.sandbox_id} was created without a readiness_probe.")
        waits = [asyncio.ensure_future(record.readiness.wait()), asyncio.ensure_future(record.ended.wait())]
        try:
            timeout_s = min(max(request.timeout, 0.0), _MAX_READY_S)
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if record.readiness.ready_at:
            return tcr.SandboxWaitUntilReadyTcrResponse(ready_at=record.readiness.ready_at)
        if record.result is not None:
            raise failed_precondition(f"The sandbox {record.sandbox_id} has ended before it was ready.")
        raise CloudError(Reason.DEADLINE_EXCEEDED, f"The sandbox was not ready within {timeout_s:g} s.")

    async def TaskReloadVolumes(
        self, request: tcr.TaskReloadVolumesRequest, context: Any
    ) -> tcr.TaskReloadVolumesResponse:
        """Make newer commits visible in the sandbox's mounts."""
        await self._sandboxes.reload_volumes(self._own(request.task_id))
        return tcr.TaskReloadVolumesResponse()

    async def TaskSetNetworkAccess(
        self, request: tcr.TaskSetNetworkAccessRequest, context: Any
    ) -> tcr.TaskSetNetworkAccessResponse:
        """Replace the sandbox's egress policy; connections that the new one does not allow are closed."""
        record = self._own(request.task_id)
        policy = egress_policy(request.network_access)
        if record.proxy is None or record.web_access is None or record.result is not None:
            raise failed_precondition(f"The sandbox {record.sandbox_id} has ended.")
        if not record.web_access.has(policy.web_ports):
            raise invalid(
                "On the local cloud a web function cannot be added to the allowlist of a running sandbox: name it when "
                "the sandbox is created."
            )
        record.proxy.set_policy(policy)
        record.web_access.allow(policy.web_ports)
        return tcr.TaskSetNetworkAccessResponse()

    def _own(self, task_id: str) -> Record:
        if caller.get().task_id != task_id:
            raise CloudError(Reason.PERMISSION_DENIED, f"This token is not for the task {task_id[:64]}.")
        return self._sandboxes.by_task(task_id)

    def _exec(self, task_id: str, exec_id: str) -> Exec:
        record = self._own(task_id)
        run = record.sandbox.execs.find(exec_id) if record.sandbox is not None else None
        if run is None:
            raise not_found(f"Exec {exec_id[:64]} not found in {record.sandbox_id}.")
        return run


async def _chunks(spool: Spool, offset: int) -> AsyncIterator[tuple[int, bytes]]:
    try:
        while data := await spool.read(offset):
            yield offset, data
            offset += len(data)
    except (OutputForgottenError, OutputLostError) as error:
        raise CloudError(Reason.DATA_LOSS, f"{error}.") from error


async def _write(run: Exec, data: bytes, offset: int, eof: bool) -> None:
    try:
        await run.write_stdin(data, offset=offset, eof=eof)
    except ValueError as error:
        raise invalid(str(error)) from error


def _devnull(request: tcr.TaskExecStartRequest) -> set[str]:
    """Return the output streams that the request discards."""
    dropped = {
        "stdout": request.stdout_config == tcr.TASK_EXEC_STDOUT_CONFIG_DEVNULL,
        "stderr": request.stderr_config == tcr.TASK_EXEC_STDERR_CONFIG_DEVNULL,
    }
    return {stream for stream, drop in dropped.items() if drop}


def _terminal(info: api_pb2.PTYInfo) -> tuple[int, int]:
    """Return a terminal's (rows, columns): the client's, at most 1000 each, or 24 by 80."""
    return min(info.winsz_rows or 24, 1000), min(info.winsz_cols or 80, 1000)


def _terminal_env(info: api_pb2.PTYInfo) -> dict[str, str]:
    named = {"TERM": info.env_term, "COLORTERM": info.env_colorterm, "TERM_PROGRAM": info.env_term_program}
    return {name: value for name, value in named.items() if value}


def _status(status: ExitStatus) -> dict[str, int]:
    return {"code": status.code} if status.code is not None else {"signal": status.signal or 0}

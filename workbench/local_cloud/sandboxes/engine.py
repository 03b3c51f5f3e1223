"""Creates sandboxes, runs programs in them and ends them. Everything the agent says is treated as a guest's word.

A sandbox lives exactly as long as our end of its socket: if this process dies, the kernel closes it and the sandbox
ends.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from workbench.local_cloud.sandboxes import isolation
from workbench.local_cloud.sandboxes.spec import (
    DEFAULT_ENV,
    ExitStatus,
    IsolationUnavailableError,
    SandboxSpec,
    SandboxStartFailedError,
)
from workbench.local_cloud.sandboxes.spool import Spool

_log = structlog.get_logger(__name__)

READY_TIMEOUT_S = 20.0
_MESSAGE_BYTES = 256 * 1024
_MAX_EXECS = 4096  # of one sandbox, kept for late readers
_CLOSE_S = 10.0

OnSync = Callable[[str], Awaitable[int]]


class Exec:
    """One program in a sandbox."""

    def __init__(self, sandbox: "Sandbox", exec_id: str, directory: Path) -> None:
        self.exec_id = exec_id
        self.stdout = Spool(directory)
        self.stderr = Spool(directory)
        self.stdin_bytes_written = 0
        self.stdin_closed = False
        self.timed_out = False
        self._sandbox = sandbox
        self._status: ExitStatus | None = None
        self._ended = asyncio.Event()
        self._stdin: asyncio.StreamWriter | None = None
        self._stdin_lock = asyncio.Lock()

    def poll(self) -> ExitStatus | None:
        """How it ended, or None while it runs."""
        return self._status

    async def wait(self) -> ExitStatus:
        """Wait for its end."""
        await self._ended.wait()
        assert self._status is not None
        return self._status

    async def write_stdin(self, data: bytes, *, offset: int, eof: bool) -> None:
        """Write at an offset; bytes already taken are skipped, so that a retry does no harm. ValueError for a gap."""
        async with self._stdin_lock:
            if offset > self.stdin_bytes_written:
                raise ValueError(f"stdin has {self.stdin_bytes_written} bytes, cannot write at {offset}")
            fresh = data[self.stdin_bytes_written - offset :]
            if self._stdin is not None and not self.stdin_closed:
                try:
                    if fresh:
                        self._stdin.write(fresh)
                        await self._stdin.drain()
                    if eof:
                        self._stdin.close()
                except OSError:
                    pass  # the program closed its end: its exit code tells the rest
            self.stdin_bytes_written += len(fresh)
            self.stdin_closed = self.stdin_closed or eof

    def finish(self, status: ExitStatus) -> None:
        """Record the end, once."""
        if self._status is None:
            self._status = status
            for spool in (self.stdout, self.stderr):
                spool.drain()
            if self._stdin is not None:
                self._stdin.close()
            self._ended.set()

    async def connect(self, stdin: int, stdout: int, stderr: int) -> None:
        """Take over the host's ends of its pipes."""
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(stdin, "wb", buffering=0)
        )
        self._stdin = asyncio.StreamWriter(transport, protocol, None, loop)
        self.stdout.fill_from(stdout)
        self.stderr.fill_from(stderr)

    def discard(self) -> None:
        """Release its pipes and its output."""
        if self._stdin is not None:
            self._stdin.close()
        self.stdout.discard()
        self.stderr.discard()


class Sandbox:
    """One running sandbox."""

    def __init__(self, spec: SandboxSpec, on_sync: OnSync | None, directory: Path) -> None:
        self.sandbox_id = spec.sandbox_id
        self.created_at = time.time()
        self.last_activity = time.monotonic()
        self._spec = spec
        self._on_sync = on_sync
        self._directory = directory
        self._execs: dict[str, Exec] = {}
        self._closed = asyncio.Event()
        self._ready = asyncio.Event()
        self._pidfd = -1
        self._bwrap: asyncio.subprocess.Process | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._send_lock = asyncio.Lock()
        self._control: socket.socket | None = None

    @property
    def closed(self) -> bool:
        """Whether its process 1 is gone."""
        return self._closed.is_set()

    @property
    def pid(self) -> int:
        """The host's process id of its bubblewrap, 0 before it runs."""
        return self._bwrap.pid if self._bwrap is not None else 0

    async def start(self, *, seccomp: bytes) -> None:
        """Start bubblewrap and wait until the agent answers; raises SandboxStartFailedError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        info_read, info_write = os.pipe()
        self._control = ours
        ours.setblocking(False)
        drop: dict[str, Any] = {}
        if os.geteuid() == 0:
            drop = {"user": self._spec.uid, "group": self._spec.uid, "extra_groups": []}
        try:
            with isolation.command(self._spec, seccomp=seccomp, info_fd=info_write, control_fd=theirs.fileno()) as (
                argv,
                descriptors,
            ):
                self._bwrap = await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    env={},
                    cwd="/",
                    pass_fds=[*descriptors, info_write, theirs.fileno()],
                    start_new_session=True,
                    **drop,
                )
        finally:
            theirs.close()
            os.close(info_write)
        try:
            self._pidfd = await asyncio.to_thread(_pidfd_from, info_read)
        finally:
            os.close(info_read)
        self._spawn(self._listen())
        self._spawn(self._watch())
        try:
            await asyncio.wait_for(self._ready_or_closed(), READY_TIMEOUT_S)
        except TimeoutError:
            pass
        if not self._ready.is_set():
            await self.terminate()
            assert self._bwrap.stderr is not None
            said = (await self._bwrap.stderr.read(2000)).decode(errors="replace").strip()
            raise SandboxStartFailedError(said or "the sandbox's agent did not answer in time")

    async def exec(
        self,
        argv: Sequence[str],
        *,
        exec_id: str,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        timeout_s: float | None = None,
    ) -> Exec:
        """Start a program; idempotent by `exec_id`. Raises SandboxStartFailedError when the sandbox is gone."""
        if exec_id in self._execs:
            return self._execs[exec_id]
        if self.closed or self._control is None:
            raise SandboxStartFailedError("the sandbox has ended")
        if len(self._execs) >= _MAX_EXECS:
            oldest = next((key for key, item in self._execs.items() if item.poll() is not None), None)
            if oldest is None:
                raise SandboxStartFailedError(f"the sandbox already runs {_MAX_EXECS} programs")
            self._execs.pop(oldest).discard()
        run = self._execs[exec_id] = Exec(self, exec_id, self._directory)
        pipes = [os.pipe() for _ in range(3)]
        inside = [pipes[0][0], pipes[1][1], pipes[2][1]]
        try:
            if os.geteuid() == 0:
                for descriptor in inside:
                    os.fchown(descriptor, self._spec.uid, self._spec.uid)
            await run.connect(pipes[0][1], pipes[1][0], pipes[2][0])
            order: dict[str, object] = {
                "op": "exec",
                "id": exec_id,
                "argv": list(argv),
                "env": {**DEFAULT_ENV, **self._spec.env, **(env or {})},
                "cwd": workdir or self._spec.workdir,
            }
            await self._send(order, inside)
        except BaseException:
            self._execs.pop(exec_id).discard()  # nothing runs: the same id may be tried again
            raise
        finally:
            for descriptor in inside:
                os.close(descriptor)
        if timeout_s is not None:
            self._spawn(self._expire(run, timeout_s))
        return run

    def find_exec(self, exec_id: str) -> Exec | None:
        """A program by its id."""
        return self._execs.get(exec_id)

    async def kill_exec(self, exec_id: str) -> None:
        """Kill a program, its process group and its descendants."""
        await self._send({"op": "kill", "id": exec_id}, [])

    async def terminate(self) -> None:
        """Kill process 1, and with it everything inside; returns when it is gone. Idempotent."""
        if self._pidfd >= 0 and not self.closed:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self._control is not None:
            self._control.close() if self.closed else None
        if self._bwrap is not None and not self.closed:
            if self._pidfd < 0:
                self._bwrap.kill()
            await asyncio.wait_for(self._closed.wait(), _CLOSE_S)

    async def wait_closed(self) -> None:
        """Return when process 1 is gone, whatever ended it."""
        await self._closed.wait()

    async def discard(self) -> None:
        """Terminate and release the spools. Idempotent."""
        await self.terminate()
        for run in self._execs.values():
            run.discard()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def _send(self, order: dict[str, object], descriptors: list[int]) -> None:
        message = json.dumps(order).encode()
        if len(message) > _MESSAGE_BYTES // 2:
            raise ValueError("the program's arguments and environment are too large")
        async with self._send_lock:
            for _ in range(1000):
                if self._control is None or self.closed:
                    raise SandboxStartFailedError("the sandbox has ended")
                try:
                    socket.send_fds(self._control, [message], descriptors)
                except BlockingIOError:
                    await asyncio.sleep(0.005)
                except OSError as error:
                    raise SandboxStartFailedError("the sandbox has ended") from error
                else:
                    return
            raise SandboxStartFailedError("the sandbox's agent does not answer")

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._control is not None
        while True:
            try:
                data = await loop.sock_recv(self._control, _MESSAGE_BYTES)
            except OSError:
                return
            if not data:
                return
            try:
                self._hear(json.loads(data))
            except (ValueError, KeyError, TypeError) as error:
                _log.warning("sandbox.bad_message", sandbox_id=self.sandbox_id, error=type(error).__name__)

    def _hear(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "ready":
                self._ready.set()
            case "exit":
                run = self._execs.get(str(message["id"]))
                code = int(message["code"])
                if run is not None and -64 <= code <= 255:
                    run.finish(ExitStatus(signal=-code) if code < 0 else ExitStatus(code=code))
            case "sync":
                self._spawn(self._sync(int(message["number"]), str(message["path"])))

    async def _sync(self, number: int, path: str) -> None:
        code = 0
        if self._on_sync is not None:
            try:
                code = await self._on_sync(path)
            except Exception as error:  # noqa: BLE001  # the guest is told by an exit code, the log has the rest
                _log.error("sandbox.sync_failed", sandbox_id=self.sandbox_id, exc_info=error)
                code = 1
        try:
            await self._send({"op": "synced", "number": number, "code": code}, [])
        except SandboxStartFailedError:
            pass

    async def _expire(self, run: Exec, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(run.wait(), timeout_s)
        except TimeoutError:
            run.timed_out = True
            try:
                await self.kill_exec(run.exec_id)
            except SandboxStartFailedError:
                pass

    async def _watch(self) -> None:
        """Notice the end of bubblewrap, which is the end of everything inside."""
        assert self._bwrap is not None
        await self._bwrap.wait()
        self._closed.set()
        for run in self._execs.values():
            run.finish(ExitStatus(signal=int(signal.SIGKILL)))
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    async def _ready_or_closed(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._closed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Engine:
    """Makes sandboxes below one private directory and ends them all when it is closed."""

    def __init__(self, root: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(mode=0o700, parents=True)
        self._root = root
        self._sandboxes: set[Sandbox] = set()
        self._seccomp = isolation.seccomp_program()

    async def create(self, spec: SandboxSpec, *, on_sync: OnSync | None = None) -> Sandbox:
        """Start a sandbox; raises IsolationUnavailableError or SandboxStartFailedError, and then nothing is left."""
        sandbox = Sandbox(spec, on_sync, Path(tempfile.mkdtemp(dir=self._root)))
        self._sandboxes.add(sandbox)
        try:
            await sandbox.start(seccomp=self._seccomp)
        except BaseException:
            await asyncio.shield(self.discard(sandbox))
            raise
        return sandbox

    async def discard(self, sandbox: Sandbox) -> None:
        """Terminate a sandbox and release what it held."""
        await sandbox.discard()
        self._sandboxes.discard(sandbox)

    async def probe(self) -> None:
        """Start and end one real sandbox; raises IsolationUnavailableError with the reason and the fix."""
        spec = SandboxSpec(sandbox_id="probe", uid=isolation_uid(0))
        try:
            await self.discard(await self.create(spec))
        except (SandboxStartFailedError, OSError) as error:
            raise IsolationUnavailableError(_explain(str(error))) from error

    async def aclose(self) -> None:
        """End every sandbox. Idempotent."""
        await asyncio.gather(*(self.discard(sandbox) for sandbox in list(self._sandboxes)))


def isolation_uid(index: int) -> int:
    """The unprivileged host user for the project with this index, when the cloud is root."""
    return 210_000 + index % 50_000


def _pidfd_from(info: int) -> int:
    """Read process 1's id from bubblewrap and hold it by a pidfd; -1 when bubblewrap ended before."""
    with os.fdopen(os.dup(info), "rb") as file:
        text = file.read()
    try:
        return os.pidfd_open(int(json.loads(text)["child-pid"]))
    except (ValueError, KeyError, OSError):
        return -1


def _explain(said: str) -> str:
    if any(sign in said for sign in ("uid map", "ermission", "not permitted")):
        return (
            f"This machine does not allow unprivileged user namespaces ({said}). On Ubuntu 24.04 run: "
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; in Docker, run the container with "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined."
        )
    if "unknown option" in said.lower():
        return (
            f"This bubblewrap is too old ({said}); version 0.8 or newer is needed. Run: sudo apt-get install bubblewrap"
        )
    return f"Sandboxes do not start here: {said}"

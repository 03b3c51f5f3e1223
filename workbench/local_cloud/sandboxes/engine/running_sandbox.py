"""One running sandbox: starts it, runs programs in it, ends it. Messages of its agent are not trusted.

A sandbox lives as long as our end of its agent's socket: if this process is killed, the kernel closes the socket and
the sandbox ends.
"""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from workbench.local_cloud.base.clock import Clock
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.rootfs.layers import LayerError, measure
from workbench.local_cloud.rootfs.warm_launchers import WarmLaunchers
from workbench.local_cloud.sandboxes.engine import isolation, rooted
from workbench.local_cloud.sandboxes.engine.activity import Activity
from workbench.local_cloud.sandboxes.engine.agent_channel import Channel, listening_socket
from workbench.local_cloud.sandboxes.engine.exec_registry import ExecRegistry
from workbench.local_cloud.sandboxes.engine.execs import Exec
from workbench.local_cloud.sandboxes.engine.process_one import ProcessOne
from workbench.local_cloud.sandboxes.engine.spec import DEFAULT_ENV, ExitStatus, SandboxSpec, SandboxStartFailedError
from workbench.local_cloud.sandboxes.limits.cgroups import Group
from workbench.local_cloud.sandboxes.limits.free_disk import Disks
from workbench.local_cloud.sandboxes.limits.sandbox_limits import MEBIBYTE, Limits
from workbench.local_cloud.sandboxes.limits.watchdog import Exceeded, UnmeasurableError, Usage, Watchdog, Watched
from workbench.local_cloud.sandboxes.network.loopback_sockets import Dials

_log = structlog.get_logger(__name__)

READY_TIMEOUT_S = 20.0
_CLOSE_S = 10.0
_SYNCS_AT_ONCE = 32
_NICENESS = 10

OnSync = Callable[[str, str], Awaitable[str]]
"""Commits the mounts at (path, exec id, or "" if unknown); returns why that failed, an empty text if it succeeded."""
OnNotice = Callable[[str], None]  # gets a sentence about the sandbox


class Sandbox:
    """One running sandbox. Made by `Engine.create`, released by `Engine.discard`.

    `env` is added to the environment of every program, below the program's own. `exceeded` is the limit that ended the
    sandbox, None if none did.
    """

    def __init__(
        self,
        spec: SandboxSpec,
        on_sync: OnSync | None,
        on_notice: OnNotice,
        directory: Path,
        group: Group,
        *,
        clock: Clock,
        disks: Disks,
    ) -> None:
        self.sandbox_id = spec.sandbox_id
        self.exceeded: Exceeded | None = None
        self.env: dict[str, str] = {}
        self._proxy_listener: socket.socket | None = None
        self._workdir_failure = ""  # why the working directory cannot be made, empty if it can
        self._activity = Activity(clock)
        self._spec = spec
        self.group = group
        self._on_sync = on_sync
        self._clock = clock
        self._disks = disks
        self._on_notice = on_notice
        self._syncing = 0
        self._directory = directory
        self._dials = Dials()
        self._closed = asyncio.Event()
        self._ready = asyncio.Event()
        self._released = asyncio.Event()
        self._one: ProcessOne | None = None
        self._watchdog: Watchdog | None = None
        self._bwrap: Program | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel = Channel(self._on_message, on_bad=self._on_bad_message)
        self.execs = ExecRegistry(self._channel, directory, uid=spec.uid)

    @property
    def closed(self) -> bool:
        """Whether the sandbox has ended."""
        return self._closed.is_set()

    @property
    def pid(self) -> int:
        """The host's process id of the sandbox's bubblewrap, 0 before it is started."""
        return self._bwrap.pid if self._bwrap is not None else 0

    @property
    def user(self) -> str:
        """The image's user as which programs start, empty for root."""
        return self._spec.user

    @property
    def _niceness(self) -> int:
        """How nice its programs are: where no cgroups keep them from taking all CPUs, they stand back."""
        return _NICENESS if self.group.version == "none" else 0

    def pidfd(self) -> int | None:
        """Return a pidfd of process 1, which the caller closes; None if the sandbox does not run."""
        return self._one.duplicate() if self._one is not None else None

    def watch(self, directory: Path) -> None:
        """Count what is written to a directory of the host among the sandbox's own files from now on."""
        if self._watchdog is not None:
            self._watchdog.watch(Watched(directory))

    async def start(self, *, seccomp: bytes, launchers: WarmLaunchers) -> None:
        """Start bubblewrap with a seccomp filter, and wait until the agent answers.

        Where the sandbox has a root of its own, one of `launchers` starts it.
        Raises SandboxStartFailedError, IsolationUnavailableError, and OSError when bubblewrap cannot be started.
        """
        theirs = self._channel.theirs
        info_read, info_write = os.pipe()
        block_read, block_write = os.pipe()
        # Bubblewrap gets both ends of the info pipe: if we are killed before it writes, it must not get SIGPIPE and
        # leave process 1 behind, which would wait for it for ever.
        pipes = [info_read, info_write, block_read, theirs.fileno()]
        numbers = {"info_fd": info_write, "block_fd": block_read, "control_fd": theirs.fileno()}
        try:
            if self._spec.root is None:
                self._bwrap = await self._start_shared(seccomp, numbers, pipes)
            else:
                numbers["niceness"] = self._niceness
                with rooted.ordered(self._spec, seccomp=seccomp, **numbers) as (order, descriptors):
                    self._bwrap = await launchers.start(order, [*descriptors, *pipes])
            self._spawn(self._watch(self._bwrap))
            theirs.close()
            info_write = _closed(info_write)
            self._one = await asyncio.to_thread(ProcessOne.from_info_fd, info_read)
            if self._one is not None:
                self.group.add(self._one.pid)  # before the guest's first instruction
            os.write(block_write, b".")
        finally:
            theirs.close()
            for descriptor in (info_read, info_write, block_read, block_write):
                _closed(descriptor)
        self._channel.listen()
        if self._one is not None:
            self._watchdog = self._new_watchdog(self._one.pid)
            self._spawn(self._watchdog.run())
        await self._ready_or_closed()
        if not self._ready.is_set():
            await self.terminate()
            printed = (await self._bwrap.stderr.read(2000)).decode(errors="replace").strip()
            raise SandboxStartFailedError(
                printed or f"the sandbox's agent did not answer within {READY_TIMEOUT_S:g} s, or ended before"
            )
        if self._workdir_failure:
            await self.terminate()
            raise SandboxStartFailedError(
                f"its working directory {self._spec.workdir} cannot be made: {self._workdir_failure}. Use one below "
                "/root or a volume's mount, or a new name below /"
            )

    async def _start_shared(self, seccomp: bytes, numbers: dict[str, int], pipes: list[int]) -> Program:
        """Start bubblewrap on this machine's own system, which the sandbox shares."""
        drop: dict[str, Any] = {}
        if os.geteuid() == 0:
            drop = {"user": self._spec.uid, "group": self._spec.uid, "extra_groups": []}
        with isolation.command(self._spec, seccomp=seccomp, **numbers) as (argv, descriptors):
            return await Program.start(
                *(("nice", "-n", str(self._niceness)) if self._niceness else ()),
                *argv,
                stdout=asyncio.subprocess.DEVNULL,
                env={},
                cwd="/",
                pass_fds=[*descriptors, *pipes],
                **drop,
            )

    async def exec(
        self,
        argv: Sequence[str],
        *,
        exec_id: str,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        timeout_s: float | None = None,
        terminal: tuple[int, int] | None = None,
        devnull: Collection[str] = (),
    ) -> Exec:
        """Start a program, on pipes or on a terminal of (rows, columns); a known `exec_id` starts no second one.

        After `timeout_s` seconds by the cloud's clock it is killed. Output to a stream ("stdout", "stderr") in
        `devnull` is discarded. Raises SandboxStartFailedError when the sandbox has ended, ValueError for arguments that
        are too large.
        """
        if (known := self.execs.find(exec_id)) is not None:
            return known
        if self.closed:
            raise SandboxStartFailedError("the sandbox has ended")
        words = list(argv)
        variables = {**DEFAULT_ENV, **self.env, **self._spec.env, **(env or {}), **self._spec.fixed_env}
        if self._spec.root is not None:
            words, variables = rooted.inside(words, variables)
        order = {
            "argv": words,
            "user": self._spec.user,
            "env": variables,
            "cwd": workdir or self._spec.workdir,
        }
        run = await self.execs.start(exec_id, order, terminal=terminal, devnull=devnull)
        run.argv = tuple(argv)
        if timeout_s is not None:
            self._spawn(self._expire(run, timeout_s))
        return run

    async def dial(self, port: int) -> socket.socket:
        """Connect to a port of the sandbox's own loopback; raises OSError, also TimeoutError."""
        return await self._dials.connect(self._ask, port)

    async def listen(self, port: int) -> socket.socket:
        """Listen at a port of the sandbox's own loopback; the caller must close the socket. Raises OSError."""
        return await self._dials.listen(self._ask, port)

    async def _ask(self, order: dict[str, object]) -> None:
        try:
            await self._channel.send(order)
        except SandboxStartFailedError as error:
            raise ConnectionRefusedError(str(error)) from error

    @asynccontextmanager
    async def visit(self, port: int) -> AsyncIterator[socket.socket]:
        """Connect to a port inside while the block runs, during which the sandbox is not idle. Raises OSError."""
        inside = await self.dial(port)
        with self._activity.visit():
            try:
                yield inside
            finally:
                inside.close()

    def take_proxy_listener(self) -> socket.socket:
        """Return the socket that listens for the egress proxy in the sandbox; to be called once, by who serves it."""
        assert self._proxy_listener is not None, "a started sandbox has it until the first call"
        found, self._proxy_listener = self._proxy_listener, None
        return found

    def idle_s(self, *, apart_from: str) -> float:
        """Return the seconds since the sandbox was last used.

        It is in use, and this returns 0, while a program other than `apart_from` runs or a port has a connection.
        """
        return self._activity.idle_s(busy=self.execs.any_runs(apart_from=apart_from))

    def touch(self) -> None:
        """Record that the sandbox is used now."""
        self._activity.touch()

    async def terminate(self) -> None:
        """Kill every process of the sandbox and wait for their end. Idempotent; raises TimeoutError after 10 s."""
        if self._bwrap is None or self.closed:
            return
        if self._one is not None:
            self._one.kill()
        else:
            self._bwrap.kill()
        await asyncio.to_thread(self.group.lift_cpu_limit)
        await asyncio.wait_for(self._closed.wait(), _CLOSE_S)

    async def wait_closed(self) -> None:
        """Return when the sandbox has ended, for any reason."""
        await self._closed.wait()

    async def discard(self) -> None:
        """End the sandbox and release its output, its cgroup and its files. Idempotent."""
        await self.terminate()
        if self._bwrap is not None:
            await asyncio.wait_for(self._released.wait(), _CLOSE_S)
            await self._bwrap.aclose()
        else:
            self._channel.close()
            await asyncio.to_thread(self.group.remove)
        self.execs.discard()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def _on_message(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Handle one message of the agent. A guest may have forged it, so all of it is checked, descriptors first."""
        match message["op"]:
            case "ready" if not self._ready.is_set():
                self._proxy_listener = listening_socket(descriptors[0])
                self._workdir_failure = str(message["workdir"])[:200]
                self._ready.set()
            case "terminal":
                run = self.execs.find(str(message["id"]))
                if run is not None:
                    self._spawn(self._connect_terminal(run, os.dup(descriptors[0])))
            case "exit":
                run = self.execs.find(str(message["id"]))
                code = int(message["code"])
                if run is not None and -64 <= code <= 255:
                    self.touch()
                    if (reason := self._out_of_memory()) is not None:
                        self._spawn(self.exceed(reason))  # ends the sandbox, and thereby this program
                        return
                    run.finish(ExitStatus(signal=-code) if code < 0 else ExitStatus(code=code))
            case "dialled":
                self._dials.take(int(message["number"]), descriptors)
            case "sync" if self._syncing < _SYNCS_AT_ONCE:
                self._syncing += 1
                exec_id = str(message["id"])
                known = exec_id if self.execs.find(exec_id) is not None else ""
                self._spawn(self._sync(int(message["number"]), str(message["path"]), known))

    def _on_bad_message(self, error: Exception) -> None:
        _log.warning("sandbox.bad_message", sandbox_id=self.sandbox_id, error=type(error).__name__)

    async def _connect_terminal(self, run: Exec, master: int) -> None:
        try:
            await run.connect_terminal(master)
        except ValueError as error:
            _log.warning("sandbox.bad_message", sandbox_id=self.sandbox_id, error=str(error))

    async def _sync(self, number: int, path: str, exec_id: str) -> None:
        failure = ""
        try:
            if self._on_sync is not None:
                failure = await self._on_sync(path, exec_id)
        except Exception as error:  # noqa: BLE001  # the guest gets a short error, the log the cause
            _log.error("sandbox.sync_failed", sandbox_id=self.sandbox_id, exc_info=error)
            failure = "Input/output error"
        finally:
            self._syncing -= 1
        try:
            await self._channel.send({"op": "synced", "number": number, "failure": failure})
        except SandboxStartFailedError:
            pass

    async def _expire(self, run: Exec, timeout_s: float) -> None:
        await self._clock.first(run.wait(), timeout_s=timeout_s)
        if run.poll() is None:
            with suppress(SandboxStartFailedError):
                await self.execs.kill(run.exec_id)

    async def exceed(self, reason: Exceeded) -> None:
        """End the sandbox because it has exceeded a limit. Only the first call counts."""
        if self.exceeded is not None:
            return
        self.exceeded = reason
        self._on_notice(f"the sandbox was ended: {reason}")
        await self.terminate()

    def _watched(self) -> list[Watched]:
        """Return the host's directories that programs of the sandbox write to."""
        own = [Watched(self._spec.root.written)] if self._spec.root is not None else []
        return [*(mount.watched for mount in self._spec.mounts if not mount.read_only), *own]

    async def _measure_inside(self, directories: Sequence[Path], limits: Limits) -> Usage:
        assert self._spec.root is not None
        enough = {"enough_bytes": limits.workspace_bytes, "enough_entries": limits.workspace_entries}
        try:
            return Usage(*await measure(self._spec.root, directories, **enough))
        except (LayerError, OSError) as error:
            raise UnmeasurableError(f"its files cannot be measured: {error}") from error

    def _new_watchdog(self, pid: int) -> Watchdog:
        return Watchdog(
            self._spec.limits,
            self._watched(),
            pid=pid,
            watch_memory=self.group.version == "none",
            out_of_memory=self._out_of_memory,
            disks=self._disks,
            exceeded=lambda reason: self._spawn(self.exceed(reason)),
            inside=self._measure_inside if self._spec.root is not None else None,
        )

    async def _watch(self, bwrap: Program) -> None:
        """Wait for the end of bubblewrap, which is the end of every process inside, then release what they had."""
        await bwrap.wait()
        if self.exceeded is None and (reason := self._out_of_memory()) is not None:
            self.exceeded = reason
            self._on_notice(f"the sandbox has ended: {reason}")
        self._closed.set()
        self._dials.give_up()
        self.execs.finish_all(ExitStatus(signal=int(signal.SIGKILL)))
        self._channel.close()
        if self._one is not None:
            self._one.kill()
            self._one.close()
        if self._proxy_listener is not None:
            self._proxy_listener.close()
        await asyncio.to_thread(self.group.remove)
        self._released.set()

    def _out_of_memory(self) -> Exceeded | None:
        """Return why the sandbox must end, when the kernel has killed one of its processes for its memory; else None.

        On Modal a sandbox is one process for the kernel, which kills all of it.
        """
        if not self.group.out_of_memory_kills():
            return None
        limit = self._spec.limits.memory_bytes // MEBIBYTE
        return Exceeded("memory", f"it used more than {limit} MiB of memory")

    async def _ready_or_closed(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._closed)]
        try:
            await asyncio.wait(waits, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _closed(descriptor: int) -> int:
    if descriptor >= 0:
        os.close(descriptor)
    return -1

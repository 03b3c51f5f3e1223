"""Sandboxes as Modal has them: ids, names, tags, timeouts, volumes and results. The engine runs their processes."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from modal_proto import api_pb2

from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError
from workbench.local_cloud.base.clocks import Clocks
from workbench.local_cloud.base.descriptors import OF_A_SANDBOX, Descriptors
from workbench.local_cloud.base.errors import CloudError, already_exists, failed_precondition, not_found
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.images.images import Image
from workbench.local_cloud.rootfs.layers import Layers
from workbench.local_cloud.sandboxes.commits import commit, commit_in_background
from workbench.local_cloud.sandboxes.endings import EXIT_TERMINATED, Status, finish_the_log, outcome
from workbench.local_cloud.sandboxes.engine.engine import Engine
from workbench.local_cloud.sandboxes.engine.host_users import Users
from workbench.local_cloud.sandboxes.engine.readiness import Probe, Readiness
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.engine.spec import SandboxStartFailedError
from workbench.local_cloud.sandboxes.ledger import Ledger
from workbench.local_cloud.sandboxes.network.connect_tokens import ConnectEntry
from workbench.local_cloud.sandboxes.network.egress_policy import EgressPolicy, Network
from workbench.local_cloud.sandboxes.network.egress_proxy import EgressProxy, proxy_env
from workbench.local_cloud.sandboxes.network.tunnels import PortSpec, Tunnels
from workbench.local_cloud.sandboxes.network.web_function_access import WebFunctionAccess
from workbench.local_cloud.sandboxes.output_log import follow
from workbench.local_cloud.sandboxes.preparation import LayOut, Preparation
from workbench.local_cloud.sandboxes.sandbox_records import ENTRYPOINT_EXEC_ID, Record, author_of
from workbench.local_cloud.volumes.mounted_tree import SeenAt
from workbench.local_cloud.volumes.open_files import holders, sentence
from workbench.local_cloud.volumes.working_copies import WorkingCopies, WorkingCopy

_log = structlog.get_logger(__name__)

OnNotice = Callable[[Record, str], None]  # gets a sentence about a sandbox, for the app's log
Prepare = Callable[[Sandbox], Awaitable[None]]  # raises SandboxStartFailedError
OnOutput = Callable[[Record, "api_pb2.FileDescriptor.ValueType", list[str]], None]

FINISHED_KEPT = 200
_ATTEMPTS_TO_END = 3
_REMOVALS_S = 30.0  # for the files of sandboxes when the cloud ends; the next one removes what is left then
# So many sandboxes start at the same time, and the others wait for their turn. If hundreds started at once, none would
# answer in its time, and the programs of those that run would wait, too.
STARTS_AT_ONCE = max(4, 2 * (os.cpu_count() or 1))
_REFUSALS_LOGGED = 100  # per sandbox: a job must not be able to flood the log


class Sandboxes:
    """Creates, finds and ends sandboxes. A sandbox ends with its entrypoint, by a timeout or limit, or on request."""

    def __init__(
        self,
        engine: Engine,
        copies: WorkingCopies,
        clocks: Clocks,
        ledger: Ledger,
        users: Users,
        files: Path,
        *,
        layers: Layers,
        lay_out: LayOut,
        on_notice: OnNotice,
        on_output: OnOutput,
        serves_web: Callable[[int], bool] = lambda port: False,
        egress_test_networks: Sequence[Network] = (),
    ) -> None:
        """Load the sandboxes of earlier clouds, all of which have ended.

        `on_notice` gets the cloud's notices about a sandbox and `on_output` its program's output, for the app's log.
        `serves_web` says whether a web function is served at a loopback port now. `lay_out` copies the files of mounts
        into a directory, of which one per sandbox is made in `files`; `layers` holds the files of images.
        `egress_test_networks` are private networks that sandboxes may reach nevertheless, for tests.
        """
        self._egress_test_networks = tuple(egress_test_networks)
        self.serves_web = serves_web
        self._engine = engine
        self._clocks = clocks
        self._preparation = Preparation(copies, users, files, layers=layers, lay_out=lay_out, on_notice=self._notice)
        self._layers = layers
        self._users = users
        self._on_notice = on_notice
        self._on_output = on_output
        self._records: dict[str, Record] = {}
        self._by_task: dict[str, Record] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._removals: set[asyncio.Future[None]] = set()
        self._turns = asyncio.Semaphore(STARTS_AT_ONCE)
        self._without_output: set[str] = set()  # ids of ended sandboxes whose output was discarded
        self.descriptors = Descriptors()
        self._ledger = ledger
        for known in ledger.end_all(now=clocks.whole.time()):
            record = Record(**vars(known))
            record.ended.set()
            self._records[record.sandbox_id] = self._by_task[record.task_id] = record

    def note(self, record: Record) -> None:
        """Store what is known of a sandbox, so that a restart does not lose it."""
        self._ledger.note(record)

    async def create(
        self,
        *,
        sandbox_id: str | None = None,
        app_id: str,
        app_name: str,
        environment: str,
        definition: api_pb2.Sandbox,
        tags: dict[str, str],
        env: dict[str, str],
        image: Image,
        egress: EgressPolicy,
        ports: Sequence[PortSpec] = (),
        probe: Probe | None = None,
        prepare: Prepare | None = None,
    ) -> Record:
        """Start a sandbox; `prepare` is awaited with it before its program starts.

        Raises CloudError: ALREADY_EXISTS for a name that a running sandbox of the app has, RESOURCE_EXHAUSTED when
        there are too few descriptors, FAILED_PRECONDITION when it does not start.
        """
        async with self._turn():
            if definition.name and self.find(app_name, definition.name, environment=environment) is not None:
                raise already_exists(f"Sandbox with name '{definition.name}' already exists in app '{app_name}'.")
            record = Record(
                sandbox_id=sandbox_id or new_id("sb", length=26),
                task_id=new_id("ta", length=24) + "V",
                app_id=app_id,
                app_name=app_name,
                environment=environment,
                name=definition.name,
                definition=definition,
                tags=tags,
                created_at=self._clocks.of(app_id).time(),
            )
            self._records[record.sandbox_id] = self._by_task[record.task_id] = record
            self.note(record)
            try:
                await self._start(record, env, image, egress, ports, prepare)
            except BaseException as error:
                await asyncio.shield(self._finish(record, api_pb2.GenericResult.GENERIC_STATUS_INIT_FAILURE, 1))
                if isinstance(error, IsolationUnavailableError | SandboxStartFailedError):
                    raise failed_precondition(f"The sandbox does not start: {error}") from error
                raise
            if probe is not None and record.sandbox is not None:
                record.readiness = Readiness(probe)
                self._spawn(record.readiness.run(record.sandbox))
            return record

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until another sandbox may start, and reserve its descriptors for the block. Those who wait reserve none.

        Raises CloudError RESOURCE_EXHAUSTED.
        """
        async with self._turns:
            await self._make_room()
            with self.descriptors.reserved(OF_A_SANDBOX, what="Another sandbox"):
                yield

    async def _start(
        self,
        record: Record,
        env: dict[str, str],
        image: Image,
        egress: EgressPolicy,
        ports: Sequence[PortSpec],
        prepare: Prepare | None,
    ) -> None:
        definition = record.definition
        spec = await self._preparation.spec(record, env, image)

        async def on_sync(path: str, exec_id: str) -> str:
            try:
                return await commit(record, path, author=author_of(record, exec_id), by_sync=True)
            except CloudError as error:
                return error.message

        clock = self._clocks.of(record.app_id)
        record.sandbox = await self._engine.create(
            spec, on_sync=on_sync, on_notice=partial(self._notice, record), clock=clock
        )
        await self._open_egress(record, record.sandbox, egress)
        if prepare is not None:
            await prepare(record.sandbox)
        record.tunnels = Tunnels(record.sandbox_id, record.sandbox.visit)
        record.tunnels.add(ports)
        record.connect = ConnectEntry(record.tunnels.host, record.sandbox.visit)
        metering = record.usage.run(record.sandbox.pid, lambda: record.ending is not None, now=clock.time)
        self._spawn(metering)
        shared = await self._preparation.why_shared(image)
        _log.info("sandbox.started", sandbox_id=record.sandbox_id, app_id=record.app_id, shares_the_system=shared)
        if command := image.command(list(definition.entrypoint_args)):
            run = await record.sandbox.exec(command, exec_id=ENTRYPOINT_EXEC_ID)
            for fd, spool in (
                (api_pb2.FILE_DESCRIPTOR_STDOUT, run.stdout),
                (api_pb2.FILE_DESCRIPTOR_STDERR, run.stderr),
            ):
                record.logging.append(asyncio.ensure_future(follow(spool, partial(self._on_output, record, fd))))
        self._spawn(self._watch(record))
        if any(not mount.read_only for mount in definition.volume_mounts):
            self._spawn(commit_in_background(record, clock))

    async def _open_egress(self, record: Record, sandbox: Sandbox, policy: EgressPolicy) -> None:
        listener = sandbox.take_proxy_listener()
        sandbox.env = proxy_env(*listener.getsockname())
        record.proxy = EgressProxy(
            listener, policy, on_refused=partial(self._refused, record), test_networks=self._egress_test_networks
        )
        await record.proxy.start()
        record.web_access = WebFunctionAccess(self.serves_web, on_refused=partial(self._refused, record))
        for port in policy.web_ports:
            try:
                record.web_access.open(port, await sandbox.listen(port))
            except OSError as error:
                raise SandboxStartFailedError(f"it cannot listen at the web function's port {port}: {error}") from error

    def _refused(self, record: Record, host: str, port: int, reason: str) -> None:
        record.refusals += 1
        if record.refusals <= _REFUSALS_LOGGED:
            self._notice(record, f"a connection to {host}:{port} was refused: {reason}")
        if record.refusals == _REFUSALS_LOGGED:
            self._notice(record, f"{_REFUSALS_LOGGED} connections were refused: further ones are not logged")

    def _notice(self, record: Record, text: str) -> None:
        _log.warning("sandbox.notice", sandbox_id=record.sandbox_id, text=text)
        self._on_notice(record, text)

    def get(self, sandbox_id: str) -> Record:
        """Return a sandbox by its id; raises CloudError NOT_FOUND."""
        if sandbox_id not in self._records:
            raise not_found(f"Sandbox {sandbox_id} not found.")
        return self._records[sandbox_id]

    def by_task(self, task_id: str) -> Record:
        """Return a sandbox by its task's id; raises CloudError NOT_FOUND."""
        if task_id not in self._by_task:
            raise not_found(f"Task {task_id} not found.")
        return self._by_task[task_id]

    def find(self, app_name: str, name: str, *, environment: str, finished: bool = False) -> Record | None:
        """Return the newest running sandbox of that name, with `finished` also one that has ended; None if none."""
        for record in reversed(self._records.values()):
            same = (record.app_name, record.name, record.environment) == (app_name, name, environment)
            if same and (finished or record.result is None):
                return record
        return None

    def rename(self, record: Record, name: str) -> None:
        """Name a running sandbox.

        Raises CloudError: ALREADY_EXISTS when another running one of the app has the name, FAILED_PRECONDITION when the
        sandbox has ended.
        """
        if record.result is not None:
            raise failed_precondition(f"The sandbox {record.sandbox_id} has ended.")
        if self.find(record.app_name, name, environment=record.environment) not in (None, record):
            raise already_exists(f"Sandbox with name '{name}' already exists in app '{record.app_name}'.")
        record.name = name
        self.note(record)

    def environment_renamed(self, old: str, new: str) -> None:
        """Move the sandboxes of an environment to its new name."""
        for record in self._records.values():
            if record.environment == old:
                record.environment = new
                self.note(record)

    def all(self) -> list[Record]:
        """Return every sandbox, newest first."""
        return sorted(self._records.values(), key=lambda record: record.created_at, reverse=True)

    async def terminate(self, record: Record) -> None:
        """End a sandbox; returns when its processes have ended and its volumes are committed. Idempotent."""
        await self._finish(record, api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, EXIT_TERMINATED)

    async def reload_volumes(self, record: Record) -> None:
        """Commit what a sandbox has written to its mounts, then make newer commits visible there.

        Raises CloudError: FAILED_PRECONDITION, before anything is changed, while processes keep a mount busy; and as
        `WorkingCopy.commit` does.
        """
        if record.sandbox is not None:
            for target in record.mounts:
                found = await asyncio.to_thread(holders, record.sandbox.pid, target)
                if found:
                    raise failed_precondition(sentence(found))
        await commit(record, "/", author=f"{author_of(record)} (reload)")
        for target, copy in record.mounts.items():
            pid = record.sandbox.pid if record.sandbox is not None else 0
            await copy.reload(SeenAt(pid, target, copy.read_only) if pid else None)

    async def stop_app(self, app_id: str) -> None:
        """End every sandbox of an app; returns when all have ended."""
        await asyncio.gather(*(self.terminate(r) for r in self.all() if r.app_id == app_id and r.result is None))

    async def aclose(self) -> None:
        """End every sandbox and discard their output. Idempotent."""
        await asyncio.gather(*(self.terminate(record) for record in self.all() if record.result is None))
        for record in self.all():
            if record.sandbox is not None:
                await self._engine.discard(record.sandbox)
        if self._removals:
            await asyncio.wait(self._removals, timeout=_REMOVALS_S)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)

    async def _watch(self, record: Record) -> None:
        status, code = await outcome(record, self._clocks.of(record.app_id))
        for attempt in range(_ATTEMPTS_TO_END):
            try:
                await self._finish(record, status, code)
            except Exception as error:  # noqa: BLE001  # nobody waits for this end who could be told
                _log.error("sandbox.end_failed", sandbox_id=record.sandbox_id, attempt=attempt, exc_info=error)
            else:
                return

    async def _finish(self, record: Record, status: Status, code: int) -> None:
        if record.ending is None or (record.ending.done() and record.result is None):
            if record.result is not None:  # it ended with an earlier cloud's process
                return
            record.ending = asyncio.ensure_future(self._end(record, status, code))
        await asyncio.shield(record.ending)

    async def _end(self, record: Record, status: Status, code: int) -> None:
        """End a sandbox and give it its result. Raises when its processes do not end; it may then be called again."""
        if record.sandbox is not None:
            await record.sandbox.terminate()
        try:
            for what, step in (
                ("its connections were not closed", _close_connections),
                ("its log is not complete", finish_the_log),
                ("its last changes to volumes were not committed", _commit_last),
            ):
                try:
                    await step(record)
                except Exception as error:  # noqa: BLE001  # the other steps must be done, and its log says what failed
                    _log.error("sandbox.end_incomplete", sandbox_id=record.sandbox_id, exc_info=error)
                    self._notice(record, f"{what}: {error}")
        finally:
            exceeded = record.sandbox.exceeded if record.sandbox is not None else None
            record.result = api_pb2.GenericResult(status=status, exitcode=code, exception=str(exceeded or ""))
            record.finished_at = self._clocks.of(record.app_id).time()
            self.note(record)
            record.ended.set()
            _log.info("sandbox.ended", sandbox_id=record.sandbox_id, exit_code=code)
            self._removals.add(removal := asyncio.ensure_future(self._remove(record)))
            removal.add_done_callback(self._removals.discard)
        self._spawn(self._forget_oldest())

    async def _remove(self, record: Record) -> None:
        """Remove the files of a sandbox that has ended, which nobody has to wait for: all that matters is committed."""
        for copy in record.mounts.values():
            with self._logged(record):
                await copy.discard()
        for root in (*record.roots, *([record.root] if record.root is not None else [])):
            with self._logged(record):
                await self._layers.close(root)
        if record.files is not None:
            await asyncio.to_thread(shutil.rmtree, record.files, ignore_errors=True)
        self._users.release(record.sandbox_id)

    @contextlib.contextmanager
    def _logged(self, record: Record) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  # the rest must be removed, too; the next start removes what is left
            _log.error("sandbox.not_removed", sandbox_id=record.sandbox_id, exc_info=error)

    async def _make_room(self) -> None:
        """Discard the output of ended sandboxes, oldest end first, until there are descriptors for another sandbox."""
        if self.descriptors.has_room(OF_A_SANDBOX):
            return
        ended = [record for record in self._records.values() if record.result is not None]
        for record in sorted(ended, key=lambda record: record.finished_at):
            if record.sandbox is not None and record.sandbox_id not in self._without_output:
                self._without_output.add(record.sandbox_id)
                await self._engine.discard(record.sandbox)
                if self.descriptors.has_room(OF_A_SANDBOX):
                    return

    async def _forget_oldest(self) -> None:
        finished = [record for record in self._records.values() if record.result is not None]
        for record in finished[:-FINISHED_KEPT]:
            if self._records.pop(record.sandbox_id, None) is None:
                continue  # another end has forgotten it meanwhile
            del self._by_task[record.task_id]
            self._ledger.forget(record.sandbox_id)
            self._without_output.discard(record.sandbox_id)
            if record.sandbox is not None:
                await self._engine.discard(record.sandbox)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _close_connections(record: Record) -> None:
    for part in (record.proxy, record.web_access, record.tunnels, record.connect):
        if part is not None:
            await part.aclose()


async def _commit_last(record: Record) -> None:
    """Commit every mount, all that can be; then raise what one of them has raised, if any has."""

    async def last(copy: WorkingCopy) -> None:
        await copy.commit(f"{author_of(record)} (final)")
        await copy.give_up()

    for failure in await asyncio.gather(*map(last, record.mounts.values()), return_exceptions=True):
        if failure is not None:
            raise failure

"""The soak of runs, on a private cloud with random faults: each run must have one end and one execution.

All readers of a run must get the same bytes. At the end there must be no sandbox and no run under way, and the proof in
every archive must hold.
"""

import asyncio
import contextlib
import random
import signal
import sqlite3
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import modal
import psutil

from modal_app.contract.events import ErrorEvent, Event
from modal_app.contract.headers import KEY_HEADER, SECRET_HEADER
from workbench.cloud_control.controls import CloudControl, ControlError, Faults
from workbench.local_cloud import State, daemon, family
from workbench.machine.environment import environment
from workbench.runs.archive import RunArchive, RunNotArchivedError
from workbench.runs.project import Project
from workbench.session import connect
from workbench.soak.disturbances import Disturbances
from workbench.soak.run_cases import Case
from workbench.soak.run_readers import Reader
from workbench.soak.soak_failures import SoakFailedError
from workbench.soak.stream_soak import containers

_APP = "soak-runs"
_SETTINGS = {
    "WORKBENCH_TIMEOUT_LEASE_S": "4",
    "WORKBENCH_TIMEOUT_HEARTBEAT_S": "1",
    "WORKBENCH_TIMEOUT_DISCONNECT_GRACE_S": "60",
    "WORKBENCH_TIMEOUT_SWEEP_S": "10",
    "WORKBENCH_MIN_CONTAINERS": "2",
}
_CLEAN_S = 150.0
_RESTART_S = 60.0
_READ_S = 60.0
_LOG_ROWS = 60
_LOST_S = 30.0  # for a container to find that it was taken for dead, and for its log to be stored


@dataclass
class Figures:
    """What a soak of runs has counted. `ends` counts cases by harm and end; `connections` are those of all readers.

    `disturbed` counts the runs during which a fault was injected that may affect any run, `cut_off` those that ended
    with `container_lost` because their container lived but others had rightly taken it for dead.
    """

    runs: int = 0
    disturbed: int = 0
    cut_off: int = 0
    outages: int = 0
    readers: int = 0
    connections: int = 0
    events: int = 0
    bytes: int = 0
    proofs: int = 0
    ends: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: float = 0


class Soak:
    """A private cloud with the endpoint, and the cases that run on it, several at the same time."""

    def __init__(
        self, state: State, seed: int, figures: Figures, *, outage_every: int = 0, outage_s: float = 0
    ) -> None:
        """With `outage_every` there are no faults in single runs, but one outage of `outage_s` for so many runs."""
        self._disturbances = Disturbances()
        self._of_containers = Disturbances()  # after these, a container may lose its runs although it lives
        self._outage_every = outage_every
        self._outage_s = outage_s
        self._state = state
        self._seed = seed
        self._figures = figures
        self._http: httpx.AsyncClient | None = None
        self._restarting = asyncio.Lock()
        self._run_ids: list[str] = []
        self._known: dict[int, str] = {}

    def deploy(self) -> None:
        """Start the cloud and deploy the endpoint. Raises what `connect` and `deploy` raise."""
        with environment(_SETTINGS), connect("local", app_name=_APP, state_dir=self._state.root) as wb:
            endpoint = wb.deploy()
            secret = {SECRET_HEADER: endpoint.secret.get_secret_value()}
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            timeout = httpx.Timeout(10, read=60, pool=None)
            self._http = httpx.AsyncClient(
                base_url=endpoint.url, headers=secret, timeout=timeout, limits=limits, trust_env=False
            )

    async def go(self, numbers: range, *, at_once: int, advance: Callable[[], None]) -> None:
        """Run the cases with these numbers. Raises SoakFailedError, which names the first case that failed."""
        started = time.monotonic()
        waiting = iter(numbers)
        outages: list[asyncio.Task[None]] = []

        async def work() -> None:
            for number in waiting:
                case = Case.choose(self._seed, number)
                if self._outage_every:
                    case = case.unharmed()
                    if number != numbers.start and number % self._outage_every == 0:
                        outages.append(asyncio.create_task(self._outage()))
                try:
                    await self._run(case)
                except Exception as failure:  # noqa: BLE001  # any failure must name its case, so that it can be repeated
                    error = _first(failure)
                    kind = "" if isinstance(error, SoakFailedError) else f"{type(error).__name__}: "
                    said = await asyncio.to_thread(self._said, self._known.get(number, "no run"))
                    raise SoakFailedError(f"{case}: {kind}{error}", left=said) from error
                advance()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            for outage in outages:
                outage.cancel()
            await asyncio.gather(*outages, return_exceptions=True)
            self._figures.seconds = round(time.monotonic() - started, 1)

    async def finish(self) -> None:
        """Check that nothing is left and that every run's proof holds. Raises SoakFailedError."""
        assert self._http is not None
        await self._http.aclose()
        await asyncio.to_thread(self._look)

    # -- one case ----------------------------------------------------------------------------------------------------

    async def _run(self, case: Case) -> None:
        began = time.monotonic()
        project, key = Project.new(), str(uuid.uuid4())
        body = {"user_id": project.user_id, "project_id": project.project_id, "action": "python", "code": case.code}
        run_id: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def first(reader: Reader) -> dict[str, Any]:
            """The request that starts the run, or joins it: it always has the same idempotency key."""
            if reader.events and not run_id.done():
                run_id.set_result(reader.events[0].run_id)
            if reader.events:
                self._known[case.number] = reader.events[0].run_id
            return {"method": "POST", "url": "/generate", "json": body, "headers": {KEY_HEADER: key}}

        chance = random.Random(f"{self._seed}/readers/{case.number}")  # noqa: S311  # to be repeated
        starter = Reader("the reader that started it", random.Random(chance.random()))  # noqa: S311  # see above
        async with asyncio.TaskGroup() as group:
            harming = group.create_task(self._harm(case, run_id))
            group.create_task(self._noting(starter, run_id))
            reading = group.create_task(
                starter.read(self._client, first, patient=case.harm != "the client leaves" and chance.random() < 0.5)
            )
            others = [Reader(f"reader {n}", random.Random(chance.random())) for n in range(case.readers)]  # noqa: S311
            for other in others:
                group.create_task(self._read_elsewhere(other, run_id, patient=chance.random() < 0.5))
            await reading
            disturbed = self._disturbances.touch(began, time.monotonic())
            if not run_id.done():
                run_id.set_result(starter.events[0].run_id)
            await harming
        self._run_ids.append(run_id.result())
        self._compare([starter, *others])
        if (starts := await asyncio.to_thread(self._starts, run_id.result())) > 1:
            raise SoakFailedError(f"it was started {starts} times")
        if starter.events[-1].type == "error" and not self._of_containers.touch(began, time.monotonic()):
            await asyncio.to_thread(self._require_loss, starter.events[-1], run_id.result())
        executions = await self._executions(project, starter.events[-1].type == "done")
        end = case.check(starter.events, executions, disturbed=disturbed)
        figures = self._figures
        figures.disturbed += disturbed
        figures.runs += 1
        figures.readers += 1 + len(others)
        figures.connections += sum(reader.connections for reader in (starter, *others))
        figures.events += len(starter.events)
        figures.bytes += len(starter.data)
        ends = figures.ends.setdefault(case.harm, {})
        ends[end] = ends.get(end, 0) + 1

    async def _noting(self, starter: Reader, run_id: "asyncio.Future[str]") -> None:
        """Set the future `run_id`, for which the other readers wait, as soon as the run's first event has come."""
        while not run_id.done():
            if starter.events:
                run_id.set_result(starter.events[0].run_id)
                return
            await asyncio.sleep(0.005)

    async def _read_elsewhere(self, reader: Reader, run_id: "asyncio.Future[str]", *, patient: bool) -> None:
        path = f"/generate/{await asyncio.shield(run_id)}"
        await reader.read(self._client, lambda _: {"method": "GET", "url": path}, patient=patient)

    def _compare(self, readers: list[Reader]) -> None:
        starter = readers[0]
        for reader in readers[1:]:
            if reader.data != starter.data:
                what = f"{len(reader.data)} bytes, not the {len(starter.data)} of {starter.name}, or others"
                raise SoakFailedError(f"{reader.name} has {what}")

    async def _executions(self, project: Project, done: bool) -> int | None:
        """How many marks the job has left in the committed files, None if unknown; a run that is done must have one."""
        body = {"user_id": project.user_id, "project_id": project.project_id, "action": "files", "op": "read"}
        deadline = time.monotonic() + _READ_S
        while time.monotonic() < deadline:
            try:
                answer = await self._client().post(
                    "/generate", json={**body, "path": "ran"}, headers={"Accept": "application/json"}
                )
            except httpx.HTTPError:
                await asyncio.sleep(0.3)
                continue
            if answer.status_code == 200:
                return len(answer.json()["result"]["content"])
            if answer.status_code == 404:
                return 0
            await asyncio.sleep(0.3)
        if done:
            raise SoakFailedError("what the job wrote could not be read")
        return None

    def _client(self) -> httpx.AsyncClient:
        assert self._http is not None
        return self._http

    # -- harm --------------------------------------------------------------------------------------------------------

    async def _harm(self, case: Case, run_id: "asyncio.Future[str]") -> None:
        if case.rule is not None:
            with contextlib.ExitStack() as spans:
                spans.enter_context(self._disturbances.one())
                if case.harm == "a container is preempted":
                    spans.enter_context(self._of_containers.one())
                rule_id = await asyncio.to_thread(self._add_rule, case.rule)
                await asyncio.wait([run_id], timeout=20)
                await asyncio.sleep(3)
                await asyncio.to_thread(self._remove_rule, rule_id)
            return
        await asyncio.sleep(case.at_s)
        match case.harm:
            case "a container is killed":
                with self._disturbances.one():
                    await asyncio.to_thread(self._kill_container, case)
            case "the cloud is killed":
                async with self._restarting:
                    with self._disturbances.one(), self._of_containers.one():
                        await asyncio.to_thread(self._kill_cloud)
            case "a container is stopped":
                with self._disturbances.one():
                    await self._stop(await asyncio.to_thread(self._one_container, case), case.stopped_s)
            case "the cloud is stopped":
                async with self._restarting:
                    with self._disturbances.one():
                        await self._stop(await asyncio.to_thread(self._cloud), case.stopped_s)
            case "it is cancelled":
                await self._cancel(await asyncio.shield(run_id))

    async def _outage(self) -> None:
        """Make every call to the platform fail for `outage_s` seconds."""
        with self._disturbances.one(), self._of_containers.one():
            rule_id = await asyncio.to_thread(self._add_rule, {"at": "call", "rpc": "*", "status": "UNAVAILABLE"})
            try:
                await asyncio.sleep(self._outage_s)
            finally:
                await asyncio.to_thread(self._remove_rule, rule_id)
        self._figures.outages += 1

    async def _cancel(self, run_id: str) -> None:
        for _ in range(60):
            with contextlib.suppress(httpx.HTTPError):
                answer = await self._client().delete(f"/generate/{run_id}")
                if answer.status_code == 200:
                    return
                if answer.status_code in (400, 401, 404, 410):
                    raise SoakFailedError(f"a run cannot be cancelled: HTTP {answer.status_code}: {answer.text[:200]}")
            await asyncio.sleep(0.5)
        raise SoakFailedError("a run cannot be cancelled")

    def _faults(self) -> Faults:
        running = self._state.running()
        if running is None:
            raise ControlError("the cloud is being restarted")
        return Faults(CloudControl(running.http_url, running.env()))

    def _add_rule(self, rule: dict[str, Any]) -> str | None:
        with contextlib.suppress(ControlError):
            return self._faults().add(**rule)
        return None

    def _remove_rule(self, rule_id: str | None) -> None:
        with contextlib.suppress(ControlError):
            if rule_id is not None:
                self._faults().remove(rule_id)

    def _containers(self) -> list[psutil.Process]:
        """The Pythons of this cloud's function containers."""
        running = self._state.running()
        return containers(family(running.pid)) if running is not None else []

    def _require_loss(self, end: Event, run_id: str) -> None:
        """Raise SoakFailedError for a run that ended with `container_lost` although its container is still there.

        Unless that container has found that others had taken it for dead, while it got no processor.
        """
        if not isinstance(end, ErrorEvent) or end.code != "container_lost":
            return
        with contextlib.closing(self._database()) as database:
            rows = database.execute("SELECT task_id FROM logs WHERE data LIKE ? ORDER BY entry", (f"%{run_id}%",))
            owner = next((str(task_id) for (task_id,) in rows if task_id), "")
        deadline = time.monotonic() + _LOST_S
        while owner and any(_task_of(process) == owner for process in self._containers()):
            if self._was_lost(owner):
                self._figures.cut_off += 1
                return
            if time.monotonic() > deadline:
                raise SoakFailedError(f"container_lost, and its container {owner} is still there")
            time.sleep(0.5)

    def _was_lost(self, task_id: str) -> bool:
        with contextlib.closing(self._database()) as database:
            where = "task_id=? AND data LIKE '%owner.lost%'"
            return bool(database.execute(f"SELECT 1 FROM logs WHERE {where}", (task_id,)).fetchone())  # noqa: S608  # constant text

    def _one_container(self, case: Case) -> list[psutil.Process]:
        """A container of the endpoint, with all its processes; none when there is none."""
        found = self._containers()
        return family(random.Random(case.job_seed).choice(found).pid) if found else []  # noqa: S311  # to be repeated

    def _cloud(self) -> list[psutil.Process]:
        running = self._state.running()
        return [psutil.Process(running.pid)] if running is not None else []

    async def _stop(self, processes: list[psutil.Process], for_s: float) -> None:
        """Let processes get no processor for a while."""
        try:
            _signal(processes, signal.SIGSTOP)
            await asyncio.sleep(for_s)
        finally:
            _signal(processes, signal.SIGCONT)

    def _kill_container(self, case: Case) -> None:
        for process in self._one_container(case)[:1]:
            _signal([process], signal.SIGKILL)

    def _kill_cloud(self) -> None:
        running = self._state.running()
        if running is None:
            return
        cloud = psutil.Process(running.pid)
        cloud.kill()
        cloud.wait(_RESTART_S)
        daemon.start(self._state)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        with connect("local", app_name=_APP, state_dir=self._state.root) as wb:
            with contextlib.suppress(ControlError):
                wb.faults.clear()
            wb.target.point_sdk()
            app = modal.App.lookup(_APP)
            under_way = modal.Dict.from_name(f"{_APP}-runs-under-way")
            deadline = time.monotonic() + _CLEAN_S
            while True:
                sandboxes = [sandbox.object_id for sandbox in modal.Sandbox.list(app_id=app.app_id)]
                runs = list(under_way.keys())
                if not sandboxes and not runs:
                    break
                if time.monotonic() > deadline:
                    left = [f"sandbox {one}" for one in sandboxes] + [f"run {one}" for one in runs]
                    raise SoakFailedError(f"{len(left)} things are left", left=left)
                time.sleep(1)
            self._verify(wb.runs)

    def _verify(self, archive: RunArchive) -> None:
        """Check the proofs of all runs. Raises SoakFailedError."""
        for run_id in self._run_ids:
            try:
                wrong = [f"{check.name}: {check.detail}" for check in archive.verify(run_id) if not check.ok]
            except RunNotArchivedError as error:
                raise SoakFailedError(
                    f"run {run_id} is not in the archive: {error}", left=self._said(run_id)
                ) from error
            if wrong:
                raise SoakFailedError(f"the proof of run {run_id} does not hold", left=[*wrong, *self._said(run_id)])
            self._figures.proofs += 1

    def _said(self, run_id: str) -> list[str]:
        """The lines about a run in the endpoint's log."""
        with contextlib.closing(self._database()) as database:
            rows = database.execute("SELECT data FROM logs WHERE data LIKE ? ORDER BY entry", (f"%{run_id}%",))
            return [str(data).strip() for (data,) in rows.fetchmany(_LOG_ROWS)]

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._state.root / 'cloud.sqlite'}?mode=ro", uri=True)

    def _starts(self, run_id: str) -> int:
        """How often the endpoint's containers have logged the start of a run, by the cloud's stored log."""
        with contextlib.closing(self._database()) as database:
            where = "data LIKE '%run.start%' AND data LIKE ?"
            (count,) = database.execute(f"SELECT COUNT(*) FROM logs WHERE {where}", (f"%{run_id}%",)).fetchone()  # noqa: S608  # constant text
        return int(count)


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _first(error: Exception) -> Exception:
    """The first exception in an exception group; any other exception as it is."""
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _task_of(process: psutil.Process) -> str:
    """The id of the container that a process is in, empty when it is gone."""
    try:
        return process.environ().get("MODAL_TASK_ID", "")
    except psutil.Error:
        return ""

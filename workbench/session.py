"""`Workbench`, the object to work with: a connection to a target, to what is deployed there, and to its runs."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import modal
from modal.exception import NotFoundError

from modal_app import DEFAULT_APP_NAME
from modal_app.contract.proof import Bundle, Check
from modal_app.contract.requests import Request
from modal_app.model.traffic import Traffic
from modal_app.runs.run_records import Records
from modal_app.runs.shared_state import SharedState, traffic_name
from modal_app.sandboxes.fleet import project_name
from workbench.checks.lines import COLD_START_S, Line, Report
from workbench.cloud_control.controls import Clock, CloudControl, ControlError, ControlUnavailableError, Faults
from workbench.cloud_control.fault_log import EndedRun, FaultLog
from workbench.deployment import deploy as deployment
from workbench.deployment import targets
from workbench.deployment.deployments import Deployments
from workbench.deployment.endpoint import Endpoint
from workbench.deployment.images_ahead import ProgramImage
from workbench.deployment.model_backing import why_without_claude
from workbench.deployment.sandbox_use import sandbox_use
from workbench.deployment.targets import Target, TargetUnavailableError
from workbench.files.history import HistoryClient
from workbench.files.project_files import ProjectVolume
from workbench.runs import replay as replaying
from workbench.runs.archive import RunArchive
from workbench.runs.background_loop import BackgroundLoop
from workbench.runs.bisection import NO_FILES, Bisection, bisect
from workbench.runs.client import PATIENCE_S, AsyncClient
from workbench.runs.comparison import Comparison, compare
from workbench.runs.labels import Labels
from workbench.runs.measured import Measured, Use
from workbench.runs.project import Project, make_request
from workbench.runs.recordings import Recording
from workbench.runs.run import Run
from workbench.runs.timeline import TOLERANCE_MS

if TYPE_CHECKING:
    from workbench.deployment.model_answers import Model
    from workbench.failures.lab import FailureLab

_LATEST_MS = 200_000_000_000_000  # in the year 8307: times in an archive may be none
_NO_SAMPLE = "no sample was taken of it: the first one is taken after a second, then one every few seconds"
_NOT_MEASURED = {
    "modal": "Modal does not tell what one run used while it went on; its dashboard has the sandbox's figures",
    "url": "an endpoint given by URL does not tell what its sandboxes use",
}
_CLOSE_S = 15.0
_JUST_ENDED_S = 3.0  # the wait for the archive of a run that may just have ended
_LAY_DOWN_S = 120.0


class Workbench:
    """A connection to one target. Close it, or use it as a context manager.

    The endpoint cancels runs that have no reader any more after a grace period, so closing ends runs under way.
    """

    def __init__(self, target: Target, *, app_name: str = DEFAULT_APP_NAME, patience_s: float = PATIENCE_S) -> None:
        self.target = target
        self._patience_s = patience_s
        self.app_name = app_name
        self._endpoint: Endpoint | None = None
        self._lab: FailureLab | None = None
        self._client: AsyncClient | None = None
        self._former: list[AsyncClient] = []  # of endpoints that were replaced; runs may still be read by them
        self._looking = threading.RLock()  # two threads that look the endpoint up share one client
        self._loop = BackgroundLoop()

    @classmethod
    def of(cls, endpoint: Endpoint) -> "Workbench":
        """A connection to an endpoint alone: it launches and follows runs, but cannot deploy or read archives."""
        workbench = cls(Target("url", Path(), url=endpoint.url))
        workbench._use(endpoint)
        return workbench

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def deploy(
        self,
        *,
        rotate_secret: bool = False,
        with_claude: bool = True,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> Endpoint:
        """Deploy the endpoint with the stock `modal` command; returns how to call it.

        `rotate_secret` makes a new secret for callers; the one before is accepted until the next rotation. Without
        `with_claude`, sandboxes have no Claude CLI. `on_line` is called with each line that `modal` prints.
        Raises DeployFailedError, TargetUnavailableError.
        """
        self._use(
            deployment.deploy(
                self.target,
                app_name=self.app_name,
                rotate_secret=rotate_secret,
                with_claude=with_claude,
                on_line=on_line,
            )
        )
        return self.endpoint

    def images(
        self, *, build: bool = False, on_line: Callable[[str], None] = lambda line: None
    ) -> tuple[ProgramImage, ...]:
        """The endpoint's images, and whether they are built; with `build`, those that are not are built now.

        Without `build` nothing is known of Modal's, which cannot be asked. Raises ProgramUnreadableError,
        TargetUnavailableError.
        """
        return deployment.images(self.target, app_name=self.app_name, build=build, on_line=on_line)

    @property
    def failures(self) -> "FailureLab":
        """The failure lab: what can go wrong, shown at an obvious endpoint and at ours. Its apps are its own."""
        from workbench.failures.lab import FailureLab  # here: its hops import a web server, and few sessions use them

        if self._lab is None:
            self._lab = FailureLab(self.target, lambda: self.faults)
        return self._lab

    def check(
        self,
        *,
        through: str = "",
        cold_start_s: float = COLD_START_S,
        upstream_s: float | None = None,
        rotation: bool = False,
        on_line: Callable[[Line], None] = lambda line: None,
    ) -> Report:
        """Measure what is deployed by the checklist; the report draws itself, and `sound` says whether no line failed.

        `through` is the address of a proxy in front of the endpoint, by which its callers reach it. `cold_start_s` are
        allowed until the first output of a new project, and `upstream_s` is for how long the proxy waits. `rotation`
        also tries a secret's rotation, on an app of its own. `on_line` is called with each line as it is known; a
        notebook's cell shows each of them as well.
        Raises CheckImpossibleError when the endpoint does not answer, DeployFailedError when nothing is deployed.
        """
        from workbench.checks import checklist, showing  # here, for most sessions check nothing

        endpoint = self.endpoint
        with showing.shown(checklist.NAMES, self.target.kind, through or endpoint.url) as shown:

            def told(line: Line) -> None:
                shown.tell(line)
                on_line(line)

            report = checklist.check(
                self.target,
                self.app_name,
                endpoint,
                through=through,
                cold_start_s=cold_start_s,
                upstream_s=upstream_s,
                rotation=rotation,
                on_line=told,
            )
            shown.finish(report)
        return report

    @property
    def deployments(self) -> Deployments:
        """What is deployed under this name, and how to change it: versions, health, which secrets exist."""
        return Deployments(self.target, self.app_name)

    def rollback(self, version: str = "", *, on_line: Callable[[str], None] = lambda line: None) -> None:
        """Deploy an earlier version (such as `v2`) again, by default the one before. Raises DeployFailedError."""
        self.deployments.rollback(version, on_line=on_line)
        self._forget()

    def stop(self, *, on_line: Callable[[str], None] = lambda line: None) -> None:
        """Stop the deployed app for everybody; runs under way end. Raises DeployFailedError."""
        self.deployments.stop(on_line=on_line)
        self._forget()

    @property
    def has_scripted_model(self) -> bool:
        """Whether what was deployed from here asks the scripted model, whose answers nobody pays for."""
        return deployment.has_scripted_model(self.target, self.app_name)

    @property
    def why_without_claude(self) -> str | None:
        """Why a deployment to this target has no Claude CLI, and what to do; None when it has one."""
        return why_without_claude(self.target)

    @property
    def endpoint(self) -> Endpoint:
        """How to call what is deployed, looked up once; raises DeployFailedError when nothing is."""
        with self._looking:
            if self._endpoint is None:
                self._use(deployment.endpoint(self.target, app_name=self.app_name))
            assert self._endpoint is not None
            return self._endpoint

    def launch(self, project: Project, action: str, *, key: str = "", **fields: Any) -> Run:
        """Start a run and return at once. `fields` are those of the action, as in the contract.

        `key` is the Idempotency-Key: a second launch with the same one joins the run of the first.
        Raises ContractError `invalid_request` for fields that the contract does not allow.
        """
        return self.start(make_request(project, action, **fields), key=key)

    def start(self, request: Request, *, key: str = "") -> Run:
        """Start a run of a parsed request and return at once; `key` as in `launch`."""
        return Run(
            self._connected(),
            self._loop,
            request,
            proof=self._proof,
            fault=self._fault_of,
            measure=self._measure_run,
            key=key,
        )

    def attach(self, run_id: str) -> Run:
        """Follow a run that was started elsewhere, or earlier, from its first event.

        `wait` of the Run raises RequestRefusedError when there is no such run, or it is no longer kept.
        """
        return Run(
            self._connected(),
            self._loop,
            None,
            proof=self._proof,
            fault=self._fault_of,
            measure=self._measure_run,
            run_id=run_id,
        )

    def _proof(self, run_id: str, wait_s: float) -> Sequence[Check]:
        return self.runs.verify(run_id, wait_s=wait_s)

    def _connected(self) -> AsyncClient:
        self.endpoint  # noqa: B018  # looked up before the first run, so that its absence is told here
        assert self._client is not None
        return self._client

    def volume(self, project: Project) -> ProjectVolume:
        """A project's committed files. Raises TargetUnavailableError for an endpoint given by URL."""
        if self.target.kind == "url":
            raise TargetUnavailableError(
                "an endpoint given by URL has no volume API: launch the action 'files' instead"
            )
        self.target.point_sdk()
        name = f"{self.app_name}-projects"
        volume = modal.Volume.from_name(name, create_if_missing=True, version=2)
        history = None
        if self.target.cloud_url is not None:
            volume.hydrate()  # it is made now, so that its history can be asked for
            root = f"projects/{project.user_id}/{project.project_id}"
            history = HistoryClient(self.target.cloud_url, self.target.env, name, root=root)
        return ProjectVolume(volume, project.user_id, project.project_id, history=history)

    @property
    def runs(self) -> RunArchive:
        """The archives of the runs of this app that have ended and are still kept, whoever started them.

        Raises TargetUnavailableError for an endpoint given by URL, DeployFailedError when nothing is deployed.
        """
        if self.target.kind == "url":
            raise TargetUnavailableError(
                "archives are read through the app's volume, which an endpoint given by URL does not give: connect to "
                "the target local or modal, or attach to the run"
            )
        self.target.point_sdk()
        volume = modal.Volume.from_name(f"{self.app_name}-runs")
        try:
            volume.hydrate()
        except NotFoundError:
            raise self._nothing_deployed() from None
        return RunArchive(
            volume,
            Records(SharedState.named(self.app_name)),
            self._loop,
            faults=self._blame,
            measure=self._measure_archived,
        )

    def _blame(self) -> Callable[[Bundle], str]:
        """What tells which fault rule of the local cloud has ended a run; nothing does on other targets."""
        if self.target.kind != "local":
            return lambda _bundle: ""
        try:
            log = FaultLog.read(self.faults)
        except ControlError:
            return lambda _bundle: ""
        return lambda bundle: log.cause(_ended(self.app_name, bundle))

    def _measure_archived(self, bundle: Bundle) -> Measured:
        sandbox = bundle.sandbox.id if bundle.sandbox else ""
        return self._measured(sandbox, bundle.accepted_at_ms, bundle.ended_at_ms)

    def _measure_run(self, run: Run) -> Measured:
        """Of a run that was watched from here: its times are the endpoint's."""
        events, end = run.events, run.terminal
        if end is None or end.sandbox is None:
            return Measured(note="it had no sandbox")
        return self._measured(end.sandbox.id, events[0].at_ms - events[0].elapsed_ms, end.at_ms)

    def _measured(self, sandbox_id: str, accepted_at_ms: int, ended_at_ms: int) -> Measured:
        """What a sandbox used while a run went on; why that is not known, where it is not."""
        if not sandbox_id:
            return Measured(note="it had no sandbox")
        if not 0 <= accepted_at_ms <= ended_at_ms <= _LATEST_MS:
            return Measured(note="the archive tells no times that can be")
        if self.target.kind != "local":
            return Measured(note=_NOT_MEASURED[self.target.kind])
        self.target.point_sdk()
        try:
            ahead_s = self._ahead_s()
            begin_s = accepted_at_ms / 1000 + ahead_s
            found = sandbox_use(sandbox_id, begin_s, max(ended_at_ms / 1000 + ahead_s, begin_s + 0.001))
        except (ControlError, modal.Error) as error:
            return Measured(note=f"it is not known ({type(error).__name__})")
        uses = tuple(
            Use(int((begin - begin_s) * 1000), int((end - begin_s) * 1000), memory * 1024, cores)
            for begin, end, memory, cores in found
        )
        return Measured(uses, "" if uses else _NO_SAMPLE)

    def _ahead_s(self) -> float:
        """By how much the clock is ahead by which the platform dates the endpoint's sandboxes."""
        try:
            return self.clock.of(self.app_name).offset_s()
        except ControlError:  # it is deployed no longer
            return self.clock.offset_s()

    def _fault_of(self, run: Run) -> str:
        """The fault rule of the local cloud that has ended a run which was watched from here; "" where none has."""
        if self.target.kind != "local":
            return ""
        asked, end = run.request, run.terminal
        seen = EndedRun(
            app=self.app_name,
            code=run.state.code or run.state.condition,
            sandbox_id=end.sandbox.id if end is not None and end.sandbox is not None else "",
            sandbox_name=project_name(asked.user_id, asked.project_id) if asked is not None else "",
            accepted_at_ms=run.began_at_ms,
            ended_at_ms=run.ended_at_ms,
        )
        try:
            return FaultLog.read(self.faults).cause(seen)
        except ControlError:
            return ""

    @property
    def labels(self) -> Labels:
        """Names of projects and runs, notes, and saved filters: this user's own, kept beside the target's secrets."""
        return Labels(self.target.private)

    def _nothing_deployed(self) -> deployment.DeployFailedError:
        return deployment.DeployFailedError(
            f"nothing is deployed as '{self.app_name}' on {self.target.kind}: run `workbench deploy`"
        )

    def replay(self, recording: Recording, *, project: Project | None = None) -> Run:
        """Execute a recorded run again: the real CLI in a real sandbox, with the recording answering for the model.

        It runs in a new project, or in `project`, whose files must be as they were when the recorded run began. When
        the job asks the model something else than the recorded one did, the run ends with `model_error`, which tells
        the first difference; `replay.departures` tells them all.
        Raises ContractError `invalid_request` for a recording that cannot be replayed, TargetUnavailableError for an
        endpoint given by URL, DeployFailedError when nothing is deployed.
        """
        request = replaying.request_of(recording, project)
        if self.target.kind == "url":
            raise TargetUnavailableError(
                "a recording is stored in the app's queue, which an endpoint given by URL does not give: connect to "
                "the target local or modal"
            )
        self.target.point_sdk()
        queue = modal.Queue.from_name(traffic_name(self.app_name))
        try:
            queue.hydrate()
        except NotFoundError:
            raise self._nothing_deployed() from None
        self._loop.call(replaying.lay_down(Traffic(queue), request, recording), timeout_s=_LAY_DOWN_S)
        return self.start(request)

    def again(self, run_id: str, *, project: Project | None = None) -> Run:
        """Start an ended run once more: the same request, in the same project or in `project`, as a new run.

        Raises as `RunArchive.get` does, and ContractError `invalid_request` when what it was asked is not kept whole.
        """
        return self.start(self.runs.get(run_id, wait_s=_JUST_ENDED_S).again(project))

    def compare(self, left: str, right: str) -> Comparison:
        """Compare two ended runs by their ids: facts, times, output and files. Raises as `RunArchive.get` does."""
        runs = self.runs
        return compare(runs.get(left, wait_s=_JUST_ENDED_S), runs.get(right, wait_s=_JUST_ENDED_S), self.volume)

    def bisect(self, left: str | Recording, right: str | Recording, *, tolerance_ms: int = TOLERANCE_MS) -> Bisection:
        """The first difference of two ended runs in each channel; each is given by its id or as a recording.

        Steps differ in time when one took over `tolerance_ms` milliseconds longer. Raises as `RunArchive.get` does.
        """
        if isinstance(left, str) and isinstance(right, str):
            return bisect(self.compare(left, right), tolerance_ms=tolerance_ms)
        one, other = (
            side.run if isinstance(side, Recording) else self.runs.get(side, wait_s=_JUST_ENDED_S)
            for side in (left, right)
        )
        return bisect(Comparison(one, other, files_problem=NO_FILES), tolerance_ms=tolerance_ms)

    @property
    def faults(self) -> Faults:
        """The rules by which the local cloud fails; raises ControlUnavailableError on other targets."""
        return Faults(self._control("faults are injected"))

    @property
    def clock(self) -> Clock:
        """The local cloud's clock, which can be moved forward, for one app alone by `wb.clock.of(APP)`.

        Raises ControlUnavailableError on other targets.
        """
        return Clock(self._control("the clock can be moved"))

    @property
    def model(self) -> "Model":
        """What the endpoint's model answers, on the local cloud; raises ControlUnavailableError on other targets."""
        from workbench.deployment.model_answers import Model  # here: a script's server is a web server

        self._control("the model's answers are given")
        return Model(lambda: deployment.scripted_model(self.target, self.app_name))

    def _control(self, what: str) -> CloudControl:
        if self.target.cloud_url is None:
            raise ControlUnavailableError(f"{what} on the local cloud only: connect to the target 'local'")
        return CloudControl(self.target.cloud_url, self.target.env)

    def close(self) -> None:
        """Stop reading every run and end the background thread. Idempotent."""
        self._forget()
        while self._former:
            self._loop.call(self._former.pop().aclose(), timeout_s=_CLOSE_S)
        self._loop.close()

    def _use(self, endpoint: Endpoint) -> None:
        with self._looking:
            if endpoint != self._endpoint:
                self._forget()
                self._endpoint = endpoint
                self._client = AsyncClient(endpoint, patience_s=self._patience_s)

    def _forget(self) -> None:
        """Look the endpoint up anew at the next call; runs under way are read on by the client that they have."""
        with self._looking:
            if self._client is not None:
                self._former.append(self._client)
            self._endpoint = self._client = None

    def __repr__(self) -> str:
        return f"Workbench(target={self.target.kind!r}, app_name={self.app_name!r})"


def _ended(app_name: str, bundle: Bundle) -> EndedRun:
    return EndedRun(
        app=app_name,
        code=bundle.outcome,
        sandbox_id=bundle.sandbox.id if bundle.sandbox else "",
        sandbox_name=project_name(bundle.user_id, bundle.project_id),
        accepted_at_ms=bundle.accepted_at_ms,
        ended_at_ms=bundle.ended_at_ms,
    )


def connect(
    target: str = "local",
    *,
    app_name: str = DEFAULT_APP_NAME,
    state_dir: str | Path | None = None,
    patience_s: float = PATIENCE_S,
) -> Workbench:
    """Connect to the target `local` (the local cloud, started if need be), `modal`, or the URL of an endpoint.

    `app_name` is the name under which the endpoint is deployed, `state_dir` the local cloud's directory. When an
    endpoint stops answering during a run, the run's events are asked for again for `patience_s` seconds.
    Raises TargetUnavailableError, which says what to do.
    """
    return Workbench(targets.resolve(target, state_dir=state_dir), app_name=app_name, patience_s=patience_s)

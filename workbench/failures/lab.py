"""The failure lab: brings a failure mode about at the naive and at the hardened endpoint, and says what became of each.

Both do a job without the fault first; where that is not well, the result is invalid and says nothing of the fault. A
fault that did not fire at its place makes the result invalid, too. The rules mean one sandbox, end by themselves, and
vanish with the process that made them.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from copy import copy

from workbench.cloud_control.controls import ControlUnavailableError, Faults
from workbench.deployment.model_backing import why_without_claude
from workbench.deployment.targets import Target
from workbench.failures import own_cloud, standing
from workbench.failures.catalogue import FAMILIES, PROMISES, Failure, find, search
from workbench.failures.experiments import EXPERIMENTS, Experiment, NotProvokedError, experiment_of
from workbench.failures.observation import Observation, SideName
from workbench.failures.results import FailureResult
from workbench.failures.side_results import Fired, SideResult
from workbench.failures.sides import APP_PREFIX, MODEL_APP, Hardened, Naive, Side, stopped
from workbench.failures.turns import alone, using
from workbench.runs.project import Project

__all__ = ["FAMILIES", "PROMISES", "Failure", "FailureLab", "FailureResult", "SideResult"]


AT_ONCE = 3
"""How many experiments `run_many` has under way: they mostly wait, and what is late is looked at again."""
RULE_S = 120.0
"""How long a rule of an experiment is in force at most, by the clock of its app."""


class FailureLab:
    """Failure modes: the catalogue, and the experiments that show them. Made by `Workbench.failures`.

    >>> wb.failures.run("missing-commit")
    """

    def __init__(self, target: Target, faults: Callable[[], Faults]) -> None:
        self._target = target
        self._faults = faults
        self._lock = target.private / "failure-lab.lock"
        self._twins_lock = target.private / "failure-lab-twins.lock"
        self._deploying = threading.Lock()
        self._sides: tuple[Side, Side] | None = None

    def search(self, *words: str, family: str | None = None) -> list[Failure]:
        """The modes in whose texts all `words` are: names, symptoms, causes, error texts; all of them without words."""
        return search(words, family=family)

    def show(self, name: str) -> Failure:
        """One mode by its name or an alias. Raises UnknownFailureError with the nearest ones."""
        return find(name)

    @property
    def runnable(self) -> frozenset[str]:
        """The names of the modes that `run` can bring about."""
        return frozenset(EXPERIMENTS)

    def run(self, name: str, *, on_step: Callable[[str], None] = lambda step: None) -> FailureResult:
        """Bring a mode about at both endpoints, each an app of the lab's own, and judge what they made of it.

        Raises UnknownFailureError, NotProvokedError, ControlUnavailableError for a target that cannot be made to fail,
        OwnCloudFailedError for an experiment that has a cloud of its own.
        """
        failure = find(name)
        self._require_local()
        if experiment_of(failure.name).own_cloud:
            return own_cloud.run(failure.name, self._target.private.parent, on_step)
        return self.run_here(failure.name, on_step=on_step)

    def run_here(self, name: str, *, on_step: Callable[[str], None] = lambda step: None) -> FailureResult:
        """As `run`, in this session's cloud, also what would end it. Raises as `run` does.

        Raises NotProvokedError when that is a cloud which others may use.
        """
        failure = find(name)
        experiment = experiment_of(failure.name)
        if experiment.own_cloud and not own_cloud.is_own(self._target.private):
            raise NotProvokedError(f"'{failure.name}' would meet whoever uses this cloud: `run` gives it its own")
        faults = self._faults()
        self._require_claude(failure, experiment)
        sides = self._deployed(on_step)
        with ExitStack() as stack:
            stack.enter_context((alone if experiment.alone else using)(self._lock, on_step))
            if experiment.twins:
                stack.enter_context(alone(self._twins_lock, on_step))
            return self._experiment(failure, experiment, sides, faults, on_step)

    def run_many(
        self, names: Sequence[str], *, at_once: int = AT_ONCE, on_step: Callable[[str], None] = lambda step: None
    ) -> Iterator[FailureResult]:
        """Bring many modes about, several at once where they do not meet, and give each result when it is there.

        What is not shown in company is brought about once more by itself: a busy machine is late. Raises as `run` does.
        """
        self._require_local()
        chosen = [find(name).name for name in names]
        again = [name for name in chosen if experiment_of(name).alone]
        company = _in_company([name for name in chosen if name not in again])
        if any(not experiment_of(name).own_cloud for name in chosen):
            self._deployed(on_step)
        with ThreadPoolExecutor(at_once) as pool:
            stopped = threading.Event()
            running = [pool.submit(self._one_by_one, names, on_step, stopped) for names in company]
            try:
                for done in as_completed(running):
                    for result in done.result():
                        if result.shown or min(at_once, len(company)) == 1:
                            yield result
                        else:
                            again.append(result.name)
            finally:
                stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
        for name in again:
            yield self.run(name, on_step=on_step)

    def _one_by_one(
        self, names: Sequence[str], on_step: Callable[[str], None], stopped: threading.Event
    ) -> list[FailureResult]:
        return [self.run(name, on_step=on_step) for name in names if not stopped.is_set()]

    def _experiment(
        self,
        failure: Failure,
        experiment: Experiment,
        sides: tuple[Side, Side],
        faults: Faults,
        on_step: Callable[[str], None],
    ) -> FailureResult:
        began_at, began = time.time(), time.monotonic()
        on_step(f"{failure.name}: both endpoints do a job without the fault")
        with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
            before = list(pool.map(_well_with_claude if experiment.turns else _well, sides))
            ill = [one for one in before if (one.ended, one.text.strip()) != ("done", "well")]
            if ill:
                why = f"the {ill[0].side} endpoint {ill[0]} without any fault"
                return FailureResult.of(failure, began_at=began_at, took_s=time.monotonic() - began, why=why)
            on_step(f"{failure.name}: now with it")
            acting = stack.enter_context(ThreadPoolExecutor(1)) if experiment.own_cloud else pool
            seen = list(acting.map(lambda side, well: self._seen(side, experiment, well, faults), sides, before))
        return FailureResult.of(failure, *seen, began_at=began_at, took_s=time.monotonic() - began)

    @contextmanager
    def provoked(self, name: str, project: Project, *, side: SideName = "hardened") -> Iterator[Side]:
        """Have the faults of a mode in force for one project while the block lasts; the launching is the caller's.

        Gives the side: `side.run(project, code)` or, for a mode of the model, `side.ask(project, prompt)`, whose model
        then gives this mode's answers. Raises as `run` does.
        """
        failure = find(name)
        experiment = experiment_of(failure.name)
        if experiment.own_cloud:
            raise NotProvokedError(f"'{failure.name}' is shown in a cloud that ends with it: `run` gives it that")
        self._require_claude(failure, experiment)
        faults = self._faults()
        chosen = next(one for one in self._deployed(lambda step: None) if one.name == side)
        having = alone if experiment.alone else using
        with (
            having(self._lock, lambda step: None),
            _in_force(experiment, faults, chosen, project),
            ExitStack() as stack,
        ):
            if experiment.turns:
                chosen = copy(chosen)
                chosen.answers = stack.enter_context(chosen.model.answers(*experiment.turns))
            yield chosen

    def reset(self) -> list[str]:
        """Take back whatever experiments have left: their rules, and the apps of the lab. Returns what was there."""
        left = [f"cloud {name}" for name in own_cloud.clear(self._target.private.parent)]
        faults = self._faults()
        for active in faults.rules():
            if active.rule.app.startswith(APP_PREFIX):
                faults.remove(active.rule_id)
                left.append(f"rule {active.rule_id}")
        for side in (Naive(self._target), Hardened(self._target)):
            with side.twin() as twin:  # what a killed session has left of it ends here
                left += [f"app {one.app_name}" for one in (side, twin) if one.stop()]
        if stopped(self._target, MODEL_APP):
            left.append(f"app {MODEL_APP}")
        self._sides = None
        return left

    def _seen(self, side: Side, experiment: Experiment, before: Observation, faults: Faults) -> SideResult:
        """Act on one side, and tell what was seen of it and how often each fault fired."""
        project = Project.new()
        with _in_force(experiment, faults, side, project) as rule_ids:
            outcome = experiment.act(side, project)
            if rule_ids:  # without any, the cloud may be another one by now
                found = {one.rule_id: one for one in (*faults.ended(), *faults.rules())}
                moments = faults.happened()
        fired = [
            Fired(
                rule=str(found[rule_id].rule),
                injected=found[rule_id].injected,
                at=tuple(round(one.real_s, 3) for one in moments if one.rule_id == rule_id),
            )
            for rule_id in rule_ids
        ]
        fired += [
            Fired(rule=what, injected=times, at=outcome.moments.get(what, ())) for what, times in outcome.fired.items()
        ]
        return SideResult(
            side=side.name,
            before=before,
            observations=outcome.observations,
            facts=dict(outcome.facts),
            fired=tuple(fired),
        )

    def _require_claude(self, failure: Failure, experiment: Experiment) -> None:
        if experiment.turns and (why := why_without_claude(self._target)) is not None:
            raise ControlUnavailableError(f"'{failure.name}' happens to jobs of the Claude CLI alone, and {why}")

    def _require_local(self) -> None:
        if self._target.kind != "local":
            raise ControlUnavailableError(
                f"nothing can be made to fail on {self._target.kind}: experiments run on the local cloud"
            )

    def _deployed(self, on_step: Callable[[str], None]) -> tuple[Side, Side]:
        self._require_local()
        has_claude = why_without_claude(self._target) is None
        with self._deploying:
            if self._sides is None or any(side.has_claude != has_claude for side in self._sides):
                sides = (Naive(self._target, self._faults()), Hardened(self._target, self._faults()))
                with using(self._lock, on_step):
                    there = standing.found(self._target, sides, has_claude=has_claude)
                if not there:
                    with alone(self._lock, on_step):
                        for side in sides:
                            on_step(f"deploying the {side.name} endpoint as {side.app_name}")
                            side.deploy(lambda line: None)
                        standing.keep(self._target, has_claude=has_claude)
                self._sides = sides
            return self._sides


def _in_company(names: Sequence[str]) -> list[list[str]]:
    """The modes as they may be brought about at once: those that would wait for each other stand in one row."""
    clouds = [name for name in names if experiment_of(name).own_cloud]
    twins = [name for name in names if experiment_of(name).twins]
    rows = [clouds, twins, *([name] for name in names if name not in (*clouds, *twins))]
    return [row for row in rows if row]


def _well(side: Side) -> Observation:
    return side.run(Project.new(), "print('well')")


def _well_with_claude(side: Side) -> Observation:
    side.ready()
    with side.model.answers("well") as answers:
        return side.ask(Project.new(), answers.prompt("say well"))


@contextmanager
def _in_force(experiment: Experiment, faults: Faults, side: Side, project: Project) -> Iterator[list[str]]:
    """Have an experiment's rules in force, for one side alone, while the block lasts; gives their ids."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(faults.injected(**{"for_s": RULE_S, "app": side.app_name, **rule}))
            for rule in experiment.rules(side, project)
        ]

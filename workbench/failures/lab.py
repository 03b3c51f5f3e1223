"""The failure lab: brings a failure mode about at the naive and at the hardened endpoint, and says what became of each.

Both do a job without the fault first; where that is not well, the result is invalid and says nothing of the fault. A
fault that did not fire at its place makes the result invalid, too. The rules mean one sandbox, end by themselves, and
vanish with the process that made them.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Literal

from pydantic import BaseModel, ConfigDict, computed_field

from workbench.cloud_control.controls import ControlUnavailableError, Faults
from workbench.deployment.deploy import DeployFailedError
from workbench.deployment.deployments import Deployments
from workbench.deployment.targets import Target
from workbench.errors import WorkbenchError
from workbench.failures.catalogue import FAMILIES, PROMISES, Failure, Promise, find, search
from workbench.failures.experiments import EXPERIMENTS, Experiment, Outcome, experiment_of
from workbench.failures.observation import Observation, SideName
from workbench.failures.sides import APP_PREFIX, Hardened, Naive, Side
from workbench.runs.project import Project

__all__ = ["FAMILIES", "PROMISES", "Failure", "FailureLab", "FailureResult", "SideResult"]


class FaultNeverFiredError(WorkbenchError):
    """An experiment that did not happen: a fault never fired, or an endpoint was ill without it."""


RULE_S = 120.0
"""How long a rule of an experiment is in force at most, by the cloud's clock."""
Verdict = Literal["prevented", "survived", "told", "lied", "spared"]


class FiredRule(BaseModel):
    """A fault rule of an experiment and how often it fired."""

    model_config = ConfigDict(frozen=True)

    rule: str
    injected: int


class SideResult(BaseModel):
    """One endpoint in one experiment. `said` is what became of it, in words."""

    model_config = ConfigDict(frozen=True)

    side: SideName
    before: Observation
    observations: tuple[Observation, ...]
    facts: dict[str, str | None]
    rules: tuple[FiredRule, ...]
    verdict: Verdict
    said: str


class FailureResult(BaseModel):
    """One experiment. It can be judged again without the cloud: everything that was seen is here.

    `status` is `invalid` when a side was not well without the fault or a fault never fired; then `why` says which, and
    there is no verdict.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    promise: Promise
    status: Literal["completed", "invalid"]
    why: str = ""
    naive: SideResult | None = None
    hardened: SideResult | None = None
    began_at: float
    took_s: float

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def verdict(self) -> Verdict | None:
        """What became of the hardened endpoint; None when nothing is known."""
        return self.hardened.verdict if self.status == "completed" and self.hardened is not None else None

    @computed_field  # type: ignore[prop-decorator]  # as above
    @property
    def shown(self) -> bool:
        """Whether the naive endpoint was harmed, and the hardened one kept its promise."""
        return self.naive is not None and self.naive.verdict == "lied" and self.verdict == self.promise

    def require(self) -> "FailureResult":
        """Return the result when the mode was shown, for notebooks and tests.

        Raises FaultNeverFiredError when nothing is known, AssertionError when the mode was not shown.
        """
        if self.status == "invalid":
            raise FaultNeverFiredError(str(self))
        assert self.shown, str(self)
        return self

    def lines(self) -> list[str]:
        """The result as lines of text: the verdict, and for each side what happened when."""
        head = f"{self.name}: {self.verdict or self.status}" + (f" ({self.why})" if self.why else "")
        return [head, *(line for side in (self.naive, self.hardened) if side is not None for line in _drawn(side))]

    def __str__(self) -> str:
        return "\n".join(self.lines())


class FailureLab:
    """Failure modes: the catalogue, and the experiments that show them. Made by `Workbench.failures`.

    >>> wb.failures.run("missing-commit")
    """

    def __init__(self, target: Target, faults: Callable[[], Faults]) -> None:
        self._target = target
        self._faults = faults
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

        Raises UnknownFailureError, NotProvokedError, ControlUnavailableError for a target that cannot be made to fail.
        """
        failure = find(name)
        experiment = experiment_of(failure.name)
        began_at, began = time.time(), time.monotonic()
        faults = self._faults()
        sides = self._deployed(on_step)
        on_step(f"{failure.name}: both endpoints do a job without the fault")
        with ThreadPoolExecutor(2) as pool:
            before = list(pool.map(_well, sides))
            ill = [one for one in before if (one.ended, one.text) != ("done", "well\n")]
            if ill:
                why = f"the {ill[0].side} endpoint {ill[0]} without any fault"
                return _result(failure, began_at, began, why=why)
            on_step(f"{failure.name}: now with it")
            done = list(pool.map(lambda side: _act(side, experiment, faults), sides))
        results = [
            _judged(failure, experiment, side, well, outcome, fired)
            for side, well, (outcome, fired) in zip(sides, before, done, strict=True)
        ]
        for result in results:
            if unfired := [one for one in result.rules if not one.injected]:
                why = f"the fault never fired at the {result.side} endpoint: {unfired[0].rule}"
                return _result(failure, began_at, began, *results, why=why)
        return _result(failure, began_at, began, *results)

    @contextmanager
    def provoked(self, name: str, project: Project, *, side: SideName = "hardened") -> Iterator[Side]:
        """Have the faults of a mode in force for one project while the block lasts; the launching is the caller's.

        Gives the side: `side.run(project, code)`. Raises as `run` does.
        """
        experiment = experiment_of(find(name).name)
        faults = self._faults()
        chosen = next(one for one in self._deployed(lambda step: None) if one.name == side)
        with _in_force(experiment, faults, chosen, project):
            yield chosen

    def reset(self) -> list[str]:
        """Take back whatever experiments have left: their rules, and the apps of the lab. Returns what was there."""
        left = []
        faults = self._faults()
        for active in faults.rules():
            if active.rule.app.startswith(APP_PREFIX):
                faults.remove(active.rule_id)
                left.append(f"rule {active.rule_id}")
        for side in (Naive(self._target), Hardened(self._target)):
            with suppress(DeployFailedError):  # it is not deployed
                Deployments(self._target, side.app_name).stop()
                left.append(f"app {side.app_name}")
        self._sides = None
        return left

    def _deployed(self, on_step: Callable[[str], None]) -> tuple[Side, Side]:
        if self._target.kind != "local":
            raise ControlUnavailableError(
                f"nothing can be made to fail on {self._target.kind}: experiments run on the local cloud"
            )
        if self._sides is None:
            sides = (Naive(self._target), Hardened(self._target))
            for side in sides:
                on_step(f"deploying the {side.name} endpoint as {side.app_name}")
                side.deploy(lambda line: None)
            self._sides = sides
        return self._sides


def _well(side: Side) -> Observation:
    return side.run(Project.new(), "print('well')")


def _act(side: Side, experiment: Experiment, faults: Faults) -> tuple[Outcome, tuple[FiredRule, ...]]:
    project = Project.new()
    with _in_force(experiment, faults, side, project) as rule_ids:
        outcome = experiment.act(side, project)
        found = {one.rule_id: one for one in (*faults.ended(), *faults.rules())}
    fired = {str(found[rule_id].rule): found[rule_id].injected for rule_id in rule_ids} | dict(outcome.fired)
    return outcome, tuple(FiredRule(rule=rule, injected=times) for rule, times in fired.items())


@contextmanager
def _in_force(experiment: Experiment, faults: Faults, side: Side, project: Project) -> Iterator[list[str]]:
    """Have an experiment's rules in force, for one side alone, while the block lasts; gives their ids."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(faults.injected(**{"for_s": RULE_S, "app": side.app_name, **rule}))
            for rule in experiment.rules(side, project)
        ]


def _judged(
    failure: Failure,
    experiment: Experiment,
    side: Side,
    before: Observation,
    outcome: Outcome,
    rules: tuple[FiredRule, ...],
) -> SideResult:
    verdict: Verdict
    if side.name == "naive":
        harm = experiment.harm(outcome)
        verdict, said = ("spared", f"it {outcome.end}: nothing happened to it") if harm is None else ("lied", harm)
    else:
        broken = experiment.broken(outcome)
        verdict, said = (failure.promise, f"it {outcome.end}") if broken is None else ("lied", broken)
    return SideResult(
        side=side.name,
        before=before,
        observations=outcome.observations,
        facts={name: None if value is None else str(value)[:500] for name, value in outcome.facts.items()},
        rules=rules,
        verdict=verdict,
        said=said,
    )


def _result(failure: Failure, began_at: float, began: float, *sides: SideResult, why: str = "") -> FailureResult:
    """The result of an experiment; one with a `why` is invalid."""
    naive, hardened = sides or (None, None)
    return FailureResult(
        name=failure.name,
        promise=failure.promise,
        status="invalid" if why else "completed",
        why=why,
        naive=naive,
        hardened=hardened,
        began_at=began_at,
        took_s=round(time.monotonic() - began, 3),
    )


def _drawn(side: SideResult) -> list[str]:
    """One side as lines: the verdict, the rules, and when what came."""
    lines = [f"  {side.side}: {side.verdict}. {side.said[:1].upper()}{side.said[1:]}"]
    lines += [f"    fault {one.rule}: fired {one.injected}" for one in side.rules]
    for seen in side.observations:
        texts = [one for one in seen.events if one.what == "text"]
        span = f"{texts[0].at_s:.1f} to {texts[-1].at_s:.1f} s" if texts else "none"
        lines.append(f"    {seen.took_s:6.1f} s  {seen}; output: {len(seen.text)} characters, {span}")
    return lines

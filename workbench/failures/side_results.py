"""What was seen of one endpoint in an experiment, and the judgement that follows from it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from workbench.failures.catalogue import Failure
from workbench.failures.experiments import Experiment, Outcome
from workbench.failures.observation import Observation, SideName

Verdict = Literal["prevented", "survived", "told", "lied", "spared"]


class Fired(BaseModel):
    """A fault of an experiment: a rule of the cloud, or what the experiment did itself.

    `injected` is how often it acted; `at` are the moments of that which are known, in Unix seconds.
    """

    model_config = ConfigDict(frozen=True)

    rule: str
    injected: int
    at: tuple[float, ...] = ()


class SideResult(BaseModel):
    """One endpoint in one experiment: a job without the fault (`before`), and what was seen with it."""

    model_config = ConfigDict(frozen=True)

    side: SideName
    before: Observation
    observations: tuple[Observation, ...]
    facts: dict[str, JsonValue]
    fired: tuple[Fired, ...]

    def judged(self, failure: Failure, experiment: Experiment) -> tuple[Verdict, str]:
        """What became of this endpoint, and that in words."""
        outcome = Outcome(self.observations, self.facts, {one.rule: one.injected for one in self.fired})
        if self.side == "naive":
            harm = experiment.harm(outcome)
            return ("spared", f"it {outcome.end}: nothing happened to it") if harm is None else ("lied", harm)
        broken = experiment.broken(outcome)
        return (failure.promise, f"it {outcome.end}") if broken is None else ("lied", broken)


class Badge(BaseModel):
    """One thing that must be so for a mode to have been shown."""

    model_config = ConfigDict(frozen=True)

    name: str
    ok: bool
    detail: str

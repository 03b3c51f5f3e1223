"""The result of an experiment: what was seen of both endpoints, and what follows from it.

It holds all that a verdict needs, so it can be judged again without the cloud, and drawn anywhere.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, computed_field, model_validator

from workbench.errors import WorkbenchError
from workbench.failures.catalogue import Failure, Promise, find
from workbench.failures.drawing import html_of, picture_of
from workbench.failures.experiments import experiment_of
from workbench.failures.observation import SideName
from workbench.failures.side_results import Badge, SideResult, Verdict


class FaultNeverFiredError(WorkbenchError):
    """An experiment that did not happen: a fault never fired, or an endpoint was ill without it."""


class FailureResult(BaseModel):
    """One experiment. It can be judged again without the cloud: everything that was seen is here.

    `status` is `invalid` when a side was not well without the fault or a fault never fired; then `why` says which, and
    there is no verdict.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    promise: Promise
    symptom: str
    invariant: str
    naive: SideResult | None = None
    hardened: SideResult | None = None
    why: str = ""
    began_at: float
    took_s: float

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.why and not (self.naive and self.hardened):
            raise ValueError("both endpoints must have been seen, or `why` must say why not")
        if (self.naive is None) != (self.hardened is None) or not all(side.observations for side in self.sides):
            raise ValueError("what was seen of both endpoints belongs to a result, or nothing of either")
        return self

    @classmethod
    def of(cls, failure: Failure, *sides: SideResult, began_at: float, took_s: float, why: str = "") -> "FailureResult":
        """The result of an experiment of which these sides were seen; one with a `why` is invalid."""
        naive, hardened = sides or (None, None)
        return cls(
            name=failure.name,
            promise=failure.promise,
            symptom=failure.symptom,
            invariant=failure.invariant,
            naive=naive,
            hardened=hardened,
            why=why or _unfired(sides),
            began_at=began_at,
            took_s=round(took_s, 3),
        )

    def again(self) -> "FailureResult":
        """The same experiment, judged anew by the catalogue and by what was seen. Raises UnknownFailureError."""
        return self.of(find(self.name), *self.sides, began_at=self.began_at, took_s=self.took_s, why=self.why)

    @property
    def sides(self) -> tuple[SideResult, ...]:
        """Both sides, the naive one first; none when an endpoint was not well before."""
        return tuple(one for one in (self.naive, self.hardened) if one is not None)

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def status(self) -> Literal["completed", "invalid"]:
        """Whether anything is known."""
        return "invalid" if self.why else "completed"

    @computed_field  # type: ignore[prop-decorator]  # as above
    @property
    def said(self) -> dict[SideName, str]:
        """What became of each endpoint, in words."""
        return {side: said for side, (_, said) in self._judged().items()}

    @computed_field  # type: ignore[prop-decorator]  # as above
    @property
    def verdict(self) -> Verdict | None:
        """What became of the hardened endpoint; None when nothing is known."""
        return None if self.why else self._judged()["hardened"][0]

    @computed_field  # type: ignore[prop-decorator]  # as above
    @property
    def shown(self) -> bool:
        """Whether the naive endpoint was harmed, and the hardened one kept its promise."""
        return not self.why and self._judged()["naive"][0] == "lied" and self.verdict == self.promise

    def badges(self) -> list[Badge]:
        """What must be so for the mode to have been shown, each with what was seen."""
        if not self.sides:
            return [Badge(name="both endpoints work without the fault", ok=False, detail=self.why)]
        found = [Badge(name="both endpoints work without the fault", ok=True, detail="each did a job")]
        for side in self.sides:
            for one in side.fired:
                times = f"{one.injected} time{'s' * (one.injected != 1)}"
                found.append(
                    Badge(
                        name=f"it happened to the {side.side} one", ok=bool(one.injected), detail=f"{one.rule}: {times}"
                    )
                )
        verdicts = self._judged()
        naive, hardened = verdicts["naive"], verdicts["hardened"]
        found.append(Badge(name="the naive endpoint is harmed", ok=naive[0] == "lied", detail=naive[1]))
        kept = hardened[0] == self.promise
        return [*found, Badge(name=f"the hardened one keeps its promise: {self.promise}", ok=kept, detail=hardened[1])]

    def require(self) -> "FailureResult":
        """Return the result when the mode was shown, for notebooks and tests.

        Raises FaultNeverFiredError when nothing is known, AssertionError when the mode was not shown.
        """
        if self.why:
            raise FaultNeverFiredError(str(self))
        assert self.shown, str(self)
        return self

    def lines(self) -> list[str]:
        """The result as lines of text: the verdict, and for each side what happened when."""
        head = f"{self.name}: {self.verdict or self.status}" + (f" ({self.why})" if self.why else "")
        verdicts = self._judged()
        return [head, *(line for side in self.sides for line in _lines(side, *verdicts[side.side]))]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        head = f"promised: {self.promise} · {self.took_s:.1f} s"
        lied = [side for side, (verdict, _) in self._judged().items() if verdict == "lied"]
        picture = picture_of(self.sides, lied, f"{self.name}: {self.said}")
        drawn = html_of(
            self.name,
            verdict=self.verdict or self.status,
            good=self.shown,
            head=head,
            texts=(self.symptom, self.invariant),
            badges=self.badges(),
            picture=picture,
        )
        return {"text/html": drawn, "text/plain": str(self)}

    def _judged(self) -> dict[SideName, tuple[Verdict, str]]:
        if not self.sides:
            return {}
        failure, experiment = find(self.name), experiment_of(self.name)
        return {side.side: side.judged(failure, experiment) for side in self.sides}


def _unfired(sides: tuple[SideResult, ...]) -> str:
    for side in sides:
        for one in side.fired:
            if not one.injected:
                return f"the fault never fired at the {side.side} endpoint: {one.rule}"
    return ""


def _lines(side: SideResult, verdict: Verdict, said: str) -> list[str]:
    """One side as lines: the verdict, the faults, and when what came."""
    lines = [f"  {side.side}: {verdict}. {said[:1].upper()}{said[1:]}"]
    lines += [f"    fault {one.rule}: fired {one.injected}" for one in side.fired]
    for seen in side.observations:
        texts = [one for one in seen.events if one.what == "text"]
        span = f"{texts[0].at_s:.1f} to {texts[-1].at_s:.1f} s" if texts else "none"
        lines.append(f"    {seen.took_s:6.1f} s  {seen}; output: {len(seen.text)} characters, {span}")
    return lines

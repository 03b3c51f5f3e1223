"""A widget of the failure lab: find a failure mode by what one sees, bring it about, watch both endpoints, keep it.

Experiments run in a thread of their own, one at a time. The fault rules are those of the whole local cloud, whoever has
set them; the clock is that of the session's app or, for who chooses it, of the whole cloud.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

from workbench.errors import WorkbenchError
from workbench.failures.catalogue import PROMISES, catalogue, find, search
from workbench.failures.experiments import EXPERIMENTS
from workbench.failures.hardenings import ABSENT, serving
from workbench.failures.kept_notebook import write
from workbench.failures.results import FailureResult
from workbench.text.plain_text import one_line
from workbench.widgets.active_rules import ShownRule, active_rules
from workbench.widgets.asking import Answer, AskingPanel, asking_front_end
from workbench.widgets.base import Buffers
from workbench.widgets.displays import Still

if TYPE_CHECKING:
    from workbench.cloud_control.controls import Clock
    from workbench.session import Workbench

FARTHEST_S = 31 * 24 * 3600.0
"""How far one press moves a clock at most."""


class BusyLabError(WorkbenchError):
    """An experiment is under way; the message says which."""


class Failures(AskingPanel):
    """The catalogue of failure modes with its experiments. `run` begins one and returns; `results` has what they gave.

    On a target that cannot be made to fail, it shows the catalogue alone.
    """

    _esm, _css = asking_front_end(__file__)
    label = "Failures"
    questions: ClassVar[Mapping[str, str]] = {"show": "_page", "keep": "_keep", "find": "_find"}

    modes: "traitlets.List[dict[str, Any]]" = traitlets.List().tag(sync=True)
    can_run = traitlets.Bool(False).tag(sync=True)
    running = traitlets.Unicode("").tag(sync=True)
    step = traitlets.Unicode("").tag(sync=True)
    verdicts: "traitlets.Dict[str, Any]" = traitlets.Dict().tag(sync=True)
    rules: "traitlets.List[ShownRule]" = traitlets.List().tag(sync=True)
    app = traitlets.Unicode("").tag(sync=True)
    ahead_s = traitlets.Float(0.0).tag(sync=True)
    app_ahead_s = traitlets.Float(0.0).tag(sync=True)

    def __init__(self, workbench: "Workbench") -> None:
        super().__init__(
            can_run=workbench.target.kind == "local",
            app=one_line(workbench.app_name),
            modes=[
                {
                    "name": one.name,
                    "family": one.family,
                    "promise": one.promise,
                    "symptom": one.symptom.split(". ")[0].rstrip("."),
                    "words": one.text(),
                    "runs": one.name in EXPERIMENTS,
                }
                for one in catalogue().values()
            ],
        )
        self.workbench = workbench
        self.results: dict[str, FailureResult] = {}
        self._busy = threading.Lock()

    def run(self, name: str) -> None:
        """Begin to bring a mode about at both endpoints. Raises UnknownFailureError, BusyLabError."""
        failure = find(name)
        if not self._busy.acquire(blocking=False):
            raise BusyLabError(f"{self.running or 'an experiment'} is under way: wait for its end")
        self.running, self.step = failure.name, "beginning"
        self.begin(self._run, failure.name)

    def keep(self, name: str, path: Path | None = None) -> Path:
        """Write the notebook of a mode, by default NAME.ipynb where the kernel works. Raises as `write` does."""
        failure = find(name)
        return write(failure, path or Path(f"{failure.name}.ipynb"))

    def halt(self) -> int:
        """Remove every fault rule of the local cloud, whoever has set it; returns how many there were."""
        removed = self.workbench.faults.clear()
        self._look()
        return removed

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        """Do what the page asks for."""
        match message:
            case {"type": "run", "name": str(name)}:
                self.run(name)
            case {"type": "look"} if self.can_run:
                self.begin(self._look)
            case {"type": "halt"}:
                self.begin(self._halt)
            case {"type": "remove", "rule_id": str(rule_id)}:
                self.begin(self._remove, rule_id)
            case {"type": "advance", "seconds": int(seconds) | float(seconds), "whole": bool(whole)} if (
                0 < seconds <= FARTHEST_S
            ):
                self.begin(self._advance, float(seconds), whole)
            case {"type": "set-back", "whole": bool(whole)}:
                self.begin(self._set_back, whole)
            case {"type": "reset"}:
                self.begin(self._reset)
            case _:
                super().handle(message, buffers)

    def still(self) -> Still:
        """The results that there are, or else the names of the modes."""
        self.settle()
        drawn = [one._repr_mimebundle_() for one in self.results.values()]
        if drawn:
            return Still(
                html="".join(one["text/html"] for one in drawn), plain="\n\n".join(one["text/plain"] for one in drawn)
            )
        names = ", ".join(catalogue())
        return Still(html=f"<p>Failure modes: {names}</p>", plain=f"Failure modes: {names}")

    def _run(self, name: str) -> None:
        try:
            result = self.workbench.failures.run(name, on_step=self._say)
        finally:
            self.running = self.step = ""
            self._busy.release()
            self._look()
        self.results[name] = result
        self.verdicts = {**self.verdicts, name: [result.verdict or result.status, result.shown, result.began_at]}

    def _say(self, step: str) -> None:
        self.step = one_line(step)

    def _halt(self) -> None:
        self.halt()

    def _look(self) -> None:
        rules, clock = active_rules(self.workbench), self.workbench.clock
        ahead_s, moved = clock.offset_s(), clock.ahead()
        app_ahead_s = next((one.offset_s for one in moved if one.app == self.workbench.app_name), ahead_s)
        with self.hold_sync():
            self.rules, self.ahead_s, self.app_ahead_s = rules, round(ahead_s, 1), round(app_ahead_s, 1)

    def _remove(self, rule_id: str) -> None:
        self.workbench.faults.remove(rule_id)
        self._look()

    def _clock(self, whole: bool) -> "Clock":  # of a message
        return self.workbench.clock if whole else self.workbench.clock.of(self.workbench.app_name)

    def _advance(self, seconds: float, whole: bool) -> None:  # as above
        self._clock(whole).advance(seconds)
        self._look()

    def _set_back(self, whole: bool) -> None:  # as above
        self._clock(whole).set_back()
        self._look()

    def _reset(self) -> None:
        self.step = f"taken back: {', '.join(self.workbench.failures.reset()) or 'nothing was left'}"
        self._look()

    def _page(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        one = find(str(asked.get("name", "")))
        drawn = self.results[one.name]._repr_mimebundle_()["text/html"] if one.name in self.results else ""
        parts = [
            ["what you see", one.symptom],
            ["first guess", one.first_guess],
            ["cause", one.cause],
            ["find it in your system", one.find],
            ["the naive endpoint", one.naive],
            ["ours", one.invariant],
            [
                "what keeps it",
                " ".join(f"{by.name}: {by.says}" for by in serving(one.name)) or ABSENT.get(one.name, ""),
            ],
            ["how it is provoked", one.provoked],
            ["error texts", "; ".join(one.errors)],
            ["also called", ", ".join(one.aliases)],
            ["where it was met", " ".join([one.story, *(f"{link.what}: {link.says}." for link in one.links)])],
        ]
        known = ", ".join(one.fidelity)
        return {
            "parts": [part for part in parts if part[1].strip()],
            "promise": f"{one.promise}: {PROMISES[one.promise]}",
            "known": f"the cause is {known}",
            "looks_like": list(one.looks_like),
            "drawn": drawn,
        }, ()

    def _find(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        return {"names": [one.name for one in search(str(asked.get("words", ""))[:2000].split())]}, ()

    def _keep(self, asked: Mapping[str, Any], _buffers: Buffers) -> Answer:
        return {"path": str(self.keep(str(asked.get("name", ""))))}, ()

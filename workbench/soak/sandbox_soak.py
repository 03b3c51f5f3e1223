"""The soak of sandboxes: runs its phases in a private directory, with all processes as descendants of this one.

However it ends, by success, failure, Ctrl-C or SIGTERM, it leaves nothing on the machine.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workbench.machine.private_cloud import private_directory
from workbench.soak import crowd, cycles, kills, orphans
from workbench.soak.leftovers import Scene
from workbench.soak.progress import PHASES, Phase, Progress
from workbench.soak.soak_failures import SoakFailedError


@dataclass
class Report:
    """The result of a soak. `failure` is empty when every promise was kept; `left` describes what was left behind."""

    progress: Progress
    figures: dict[Phase, dict[str, object]] = field(default_factory=dict)
    failure: str = ""
    left: tuple[str, ...] = ()

    def facts(self) -> dict[str, object]:
        """The report as a dictionary, for JSON."""
        facts = {"figures": self.figures, "failure": self.failure, "left": list(self.left)}
        return {"ok": not self.failure, **asdict(self.progress), **facts}


def run(progress: Progress, *, talk_s: float, advance: Callable[[Phase], None]) -> Report:
    """Run the rounds that `progress` does not count as done yet, and return the report.

    `advance` is called when a phase begins and whenever `progress` has changed.
    """
    report = Report(progress)
    with private_directory("soak") as root, orphans.adopted():
        for phase in PHASES:
            numbers = range(progress.done[phase], progress.asked[phase])
            if not numbers:
                continue
            try:
                report.figures[phase] = _phase(phase, root, progress, numbers, talk_s=talk_s, advance=advance)
            except SoakFailedError as error:
                report.failure, report.left = f"{phase}: {error}", error.left
                break
    return report


def _phase(
    phase: Phase,
    root: Path,
    progress: Progress,
    numbers: range,
    *,
    talk_s: float,
    advance: Callable[[Phase], None],
) -> dict[str, object]:
    scene = Scene(root, watched=(root / "tmp",))
    spent_s, began = progress.seconds[phase], time.monotonic()

    def one_more() -> None:
        progress.done[phase] += 1
        progress.seconds[phase] = round(spent_s + time.monotonic() - began, 3)
        advance(phase)

    advance(phase)
    match phase:
        case "cycles":
            return asyncio.run(cycles.run(scene, progress.seed, numbers, advance=one_more))
        case "kills":
            return kills.run(scene, progress.seed, numbers, advance=one_more)
        case "concurrent":
            progress.done[phase] = 0  # this phase is about all of them at the same time, so it is not resumed in part
            return crowd.run(scene, progress.asked[phase], talk_s=talk_s, advance=one_more)

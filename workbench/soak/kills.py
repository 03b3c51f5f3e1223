"""Phase 3: kill a local cloud at a random moment, look for leftovers, and start it again on the same state.

A killed cloud's janitor process cleans up after it. Sometimes the next cloud is started before the janitor is done, and
sometimes the janitor is killed as well: then the start has to clean up. The machine is looked at after every round.
"""

import contextlib
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import psutil

from workbench.local_cloud import Running, State, daemon
from workbench.soak import clouds, orphans
from workbench.soak.leftovers import Scene
from workbench.soak.sdk_client import STEPS
from workbench.soak.soak_failures import SoakFailedError

_PATIENCE_S = 30.0
_STEP_S = 60.0
_DELAY_S = 0.4
_JANITOR = "janitor.py"

Then = Literal["look", "start at once", "kill its janitor, too"]
THENS: tuple[Then, ...] = get_args(Then)


@dataclass(frozen=True)
class Kill:
    """One round: when the cloud is killed, and what happens then. All of it follows from the seed and the number."""

    number: int
    step: str
    delay_s: float
    then: Then

    @classmethod
    def choose(cls, seed: int, number: int) -> "Kill":
        """Choose a round; the same seed and number always give the same round."""
        chance = random.Random(f"{seed}/kills/{number}")  # noqa: S311  # to be repeated, not to be secret
        step = chance.choice(("listens", *STEPS))
        return cls(number, step, chance.uniform(0, _DELAY_S), chance.choices(THENS, weights=(3, 1, 1))[0])

    def __str__(self) -> str:
        return f"kill {self.number} ({self.delay_s:.3f} s after '{self.step}', then {self.then})"


def run(scene: Scene, seed: int, numbers: range, *, advance: Callable[[], None]) -> dict[str, object]:
    """Run the rounds with these numbers, and return figures. Raises SoakFailedError, which names the failed round."""
    before = scene.look()
    starts_s: list[float] = []
    cleanups_s: list[float] = []
    steps: Counter[str] = Counter()
    with clouds.private_state(scene) as state:
        for number in numbers:
            kill = Kill.choose(seed, number)
            try:
                starts_s.append(_run(scene, state, kill))
            except SoakFailedError as error:
                raise SoakFailedError(f"{kill}: {error}") from error
            steps[kill.step] += 1
            if kill.then == "look":
                cleanups_s.append(scene.expect(before, str(kill), timeout_s=_PATIENCE_S))
            advance()
        starts_s.append(clouds.start(state, scene)[1])  # this start has to clean up whatever the last kill has left
        daemon.stop(state)
        orphans.reap()
        scene.expect(before, "the last start and stop", timeout_s=_PATIENCE_S)
    return {"steps": dict(steps), "start_s": _figures(starts_s), "clean_after_s": _figures(cleanups_s)}


def _run(scene: Scene, state: State, kill: Kill) -> float:
    with clouds.client(scene.root, "kills") as client:
        running, start_s = clouds.start(state, scene)
        _only_its_own_run(state)
        scene.ports = _ports(running)
        client.connect(running)
        while kill.step != "listens":
            told = client.hear(timeout_s=_STEP_S)
            if told is None:
                raise SoakFailedError("the SDK program ended too early")
            if told["step"] == kill.step:
                break
        time.sleep(kill.delay_s)
        if kill.then == "kill its janitor, too":
            _kill_janitor(running)
        cloud = psutil.Process(running.pid)
        cloud.kill()
        cloud.wait(_PATIENCE_S)  # reap it: the next cloud might take a zombie for a living process
    orphans.reap()
    return start_s


def _only_its_own_run(state: State) -> None:
    runs = sorted(path.name for path in (state.root / "run").iterdir())
    if len(runs) != 1:
        raise SoakFailedError(f"a start has left the dead cloud's directory: {', '.join(runs)}", left=runs)


def _ports(running: Running) -> set[int]:
    connections = psutil.Process(running.pid).net_connections("tcp")
    return {one.laddr[1] for one in connections if one.status == psutil.CONN_LISTEN and one.laddr}


def _kill_janitor(running: Running) -> None:
    for process in psutil.Process(running.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(word.endswith(_JANITOR) for word in process.cmdline()):
                process.kill()


def _figures(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"median": round(statistics.median(values), 3), "most": round(max(values), 3)}

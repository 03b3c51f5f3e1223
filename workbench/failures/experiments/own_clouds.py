"""Failure modes that are brought about in a cloud of their own: one moves its clock, the other one ends it."""

import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import psutil

from workbench.cloud_control.controls import Clock, CloudControl
from workbench.deployment.targets import resolve
from workbench.failures.experiments.basics import Experiment, Outcome, first, same, told
from workbench.failures.sides import PATIENCE_S, Naive, Reading, Side
from workbench.runs.project import Project

_LOOK_S = 0.1
_CREATION_S = 160  # by the cloud's clock; the platform waits 150 s for the headers of an answer
_MOVED_S = (155, 10)


def _slow_creation(side: Side, project: Project) -> Outcome:
    """The platform takes minutes for a sandbox, by its clock, which is moved on as soon as it was asked for one."""
    assert side.faults is not None
    assert side.target.cloud_url is not None
    clock = Clock(CloudControl(side.target.cloud_url, side.target.env))
    began = side.faults.happened()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(side.run, project, "print('at last')")
        deadline = time.monotonic() + PATIENCE_S
        while len(side.faults.happened()) == len(began) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        for seconds in _MOVED_S:
            clock.advance(seconds)
            time.sleep(1.0)  # whoever has waited for so long takes note of it
        return Outcome((running.result(),))


def _creating_first(side: Side) -> None:
    """Have the naive endpoint answer only when it has a sandbox, as many do that tell a failure by a status."""
    if isinstance(side, Naive):
        side.creates_first = True


def _redirected(seen: Outcome) -> str | None:
    if (seen.end.ended, seen.end.code) != ("refused", "303"):
        return None
    return "its POST was answered by a redirect that takes only GET (303)"


def _headers_at_once(seen: Outcome) -> str | None:
    began = seen.end.events[0].at_s if seen.end.events else seen.end.took_s
    return None if began <= _AT_ONCE_S else f"its first event came after {began:.1f} s"


_AT_ONCE_S = 2.0
_LONG = "import time\nfor n in range(600): print(n, flush=True); time.sleep(0.1)\n"


def _restarted(side: Side, project: Project) -> Outcome:
    """The cloud is killed while a job prints, and started again; then the page that showed the job is loaded again."""
    state = side.target.private.parent
    _reach(side)  # the other side's experiment may have started the cloud anew
    known: SimpleQueue[str] = SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(side.run, project, _LONG, reading=Reading(on_run=known.put))
        run_id = known.get(timeout=PATIENCE_S)
        time.sleep(_PRINTS_S)
        meanwhile = not running.done()
        pid = resolve("local", state_dir=state).cloud_pid
        assert pid is not None
        cloud = psutil.Process(pid)
        cloud.kill()
        cloud.wait(PATIENCE_S)
        before = running.result()
    _reach(side)
    page = side.loaded_again(run_id)
    return Outcome((before, page), {}, {"the cloud was killed while the job ran": int(meanwhile)})


_PRINTS_S = 3.0


def _reach(side: Side) -> None:
    """Start the side's cloud unless it runs, and find the endpoint in it again."""
    side.target = resolve("local", state_dir=side.target.private.parent)
    side.target.point_sdk()
    side.locate()


def _no_end(seen: Outcome) -> str | None:
    if seen.end.ended in ("done", "error"):
        return None
    return f"the page, loaded again, {seen.end} with {len(seen.end.text.split())} lines: nobody says what became of it"


OWN_CLOUDS: dict[str, Experiment] = {
    "303-after-150s": Experiment(
        act=_slow_creation,
        rules=lambda side, project: (
            {
                "rpc": "SandboxCreate*",
                "sandbox": f"{side.sandbox_name(project)}*",
                "delay_s": _CREATION_S,
                "times": 1,
            },
        ),
        variant=_creating_first,
        harm=_redirected,
        broken=first(same("at last\n"), _headers_at_once),
        own_cloud=True,
    ),
    "cloud-restarted": Experiment(
        act=_restarted,
        harm=_no_end,
        broken=told("container_lost"),
        own_cloud=True,
    ),
}

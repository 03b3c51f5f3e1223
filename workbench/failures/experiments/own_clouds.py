"""Failure modes that end a cloud: they are brought about in one of their own."""

import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import psutil

from workbench.deployment.targets import resolve
from workbench.failures.experiments.basics import Experiment, Outcome, told
from workbench.failures.sides import PATIENCE_S, Reading, Side
from workbench.runs.project import Project

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
    "cloud-restarted": Experiment(
        act=_restarted,
        harm=_no_end,
        broken=told("container_lost"),
        own_cloud=True,
    ),
}

"""Failure modes of streaming, brought about."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from workbench.failures.experiments.basics import (
    SLOW,
    Act,
    Experiment,
    Outcome,
    cut_and_back,
    done,
    first,
    injected,
    late,
    left_alive,
    lied,
    of_its_program,
    outlived,
    running,
    same,
    through,
    told,
)
from workbench.failures.hops import Harm, Hop
from workbench.failures.observation import Observation
from workbench.failures.sides import PATIENCE_S, Naive, Reading, Side
from workbench.runs.project import Project

_NUMBERS = "import time\nfor n in range(30):\n    print('line', n, flush=True); time.sleep(0.1)\n"
_ALL_NUMBERS = "".join(f"line {number}\n" for number in range(30))


def _slow_through(harm: Harm) -> Act:
    return through(harm, lambda side, project, url: (side.run(project, SLOW, url=url),))


def _two_jobs_on_one_path(side: Side, project: Project, url: str) -> tuple[Observation, ...]:
    return tuple(side.run(project, f"print('job {number}')", url=url) for number in (1, 2))


def _through_an_impatient_hop(side: Side, project: Project) -> Outcome:
    """A hop that closes a connection on which no byte passes for some seconds; the job is silent for longer."""
    with Hop(side.url, idle_cut_s=_IDLE_S) as hop:
        seen = side.run(project, f"import time\ntime.sleep({_IDLE_S + 3})\nprint('thought')\n", url=hop.url)
        return Outcome((seen,), {"cut": hop.harmed}, {"a hop that cuts what is silent met a stream": hop.met})


_IDLE_S = 8  # the hardened endpoint's heartbeat is 3 s in the lab


def _left_alone(side: Side, project: Project) -> Outcome:
    """A reader that leaves after the first output, and what becomes of the sandbox."""
    code = "import time\nprint('begun', flush=True)\ntime.sleep(600)\n"
    seen = side.run(project, code, reading=Reading(leave_after=1))
    alive = left_alive(side, project, within_s=_LEFT_S)
    return Outcome((seen,), alive, {"the reader left": int(seen.ended == "left")})


_LEFT_S = 12.0
"""More than the hardened endpoint's grace in the lab, 5 s; less than that and the time for which its sandboxes hear
nothing, 14 s, and than the life of a naive one, 20 s."""


_CREATION_S = 160  # by the app's clock; the platform waits 150 s for the headers of an answer
_MOVED_S = (155, 10)


def _slow_creation(side: Side, project: Project) -> Outcome:
    """The platform takes minutes for a sandbox, by the app's clock, which is moved on when it was asked for one."""
    assert side.faults is not None
    with side.twin() as one, ExitStack() as stack:
        if isinstance(one, Naive):
            one.creates_first = True  # as many do that tell a failure by a status
        one.deploy(lambda line: None)
        one.run(Project.new(), "print('well')")  # its container has started
        sandbox = f"{one.sandbox_name(project)}*"
        late = side.faults.injected(
            rpc="SandboxCreate*", app=one.app_name, sandbox=sandbox, delay_s=_CREATION_S, times=1
        )
        rule_id = stack.enter_context(late)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        running = pool.submit(one.run, project, "print('at last')")
        deadline = time.monotonic() + PATIENCE_S
        while not injected(side.faults, rule_id) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        moved_at = time.time()
        for seconds in _MOVED_S:
            stack.enter_context(one.clock().advanced(seconds))
            time.sleep(1.0)  # whoever has waited for so long takes note of it
        seen = running.result()
        said_at = seen.began_at + (seen.events[0].at_s if seen.events else seen.took_s)
        fired = {"the creation of a sandbox was late": injected(side.faults, rule_id)}
        return Outcome((seen,), {"said_s": round(said_at - moved_at, 3)}, fired)


def _redirected(seen: Outcome) -> str | None:
    if (seen.end.ended, seen.end.code) != ("refused", "303"):
        return None
    return "its POST was answered by a redirect that takes only GET (303)"


def _headers_at_once(seen: Outcome) -> str | None:
    after_s = float(str(seen.facts["said_s"]))
    return f"its first event came {after_s:.1f} s after the platform had lost its patience" if after_s > 0 else None


_LOOK_S = 0.1


def _largest(seen: Outcome) -> int:
    return max((len(one.text) for one in seen.end.events if one.what == "text"), default=0)


STREAMING: dict[str, Experiment] = {
    "output-without-newline": Experiment(
        act=running(
            "import sys, time\nfor n in range(20):\n"
            "    sys.stdout.write('\\r%d%%' % (n * 5)); sys.stdout.flush(); time.sleep(0.2)\n"
        ),
        harm=late("nothing was shown while it ran"),
        broken=late("the first of it was late"),
    ),
    "job-buffers-its-output": Experiment(
        act=running("import time\nfor n in range(20):\n    print('line', n); time.sleep(0.2)\n"),
        harm=late("everything came at the end"),
        broken=late("the first of it was late"),
    ),
    "stream-ended-without-exit-code": Experiment(
        act=running("import time\nfor n in range(10): print(n, flush=True); time.sleep(0.1)\n"),
        rules=of_its_program("TaskExecStdioRead", at="stream", after_messages=2, status="DATA_LOSS"),
        harm=lied("half of its output is missing"),
        broken=told("stream_lost", "sandbox_lost"),
    ),
    "idle-cut": Experiment(
        act=_through_an_impatient_hop,
        harm=lied("nothing was said of the cut"),
        broken=same("thought\n"),
    ),
    "buffering-hop": Experiment(
        act=_slow_through("buffers"),
        harm=late("everything came at the end"),
        broken=late("the first of it was late"),
    ),
    "proxy-compression": Experiment(
        act=_slow_through("compresses"),
        harm=late("everything came at the end"),
        broken=late("the first of it was late"),
    ),
    "wrong-stream-headers": Experiment(
        act=through("stores", _two_jobs_on_one_path),
        harm=lambda seen: f"the second job was answered with {seen.end.text!r}" if seen.end.text != "job 2\n" else None,
        broken=same("job 2\n"),
    ),
    "303-after-150s": Experiment(
        act=_slow_creation,
        harm=_redirected,
        broken=first(same("at last\n"), _headers_at_once),
        twins=True,
    ),
    "reader-gone": Experiment(
        act=_left_alone,
        harm=outlived("its sandbox still runs"),
        broken=outlived("its sandbox still runs"),
    ),
    "reader-returns": Experiment(
        act=cut_and_back(_NUMBERS, cut_after_s=1.0),
        harm=lambda seen: (
            f"the client has {str(seen.facts['text']).count('line 0')} times the first line"
            if seen.facts["text"] != _ALL_NUMBERS
            else None
        ),
        broken=first(
            done, lambda seen: None if seen.facts["text"] == _ALL_NUMBERS else "what arrived is not what was printed"
        ),
    ),
    "line-too-long": Experiment(
        act=running(
            "import sys, time\nfor n in range(12):\n    sys.stdout.write('x' * 1048576); sys.stdout.flush(); "
            "time.sleep(0.3)\n"
        ),
        harm=lambda seen: (
            f"one event has {_largest(seen):,} characters, and nothing came before it"
            if _largest(seen) > 8 * 1024 * 1024
            else late("nothing was shown while it ran")(seen)
        ),
        broken=first(
            done,
            late("the first of it was late"),
            lambda seen: f"{len(seen.end.text):,} characters arrived" if len(seen.end.text) != 12 * 1048576 else None,
            lambda seen: f"an event has {_largest(seen):,} characters" if _largest(seen) > 65536 else None,
        ),
    ),
}

"""Failure modes of what lives and dies, brought about."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import modal

from workbench.failures.experiments.basics import (
    COUNTS,
    WRITES,
    Act,
    Experiment,
    Outcome,
    Rule,
    begun,
    done,
    file_is,
    first,
    injected,
    kept,
    left_alive,
    lied,
    of_its_commits,
    of_its_program,
    outlived,
    running,
    running_and_reading,
    same,
    told,
)
from workbench.failures.sides import NAIVE_SANDBOX_S, PATIENCE_S, Naive, Reading, Side
from workbench.runs.project import Project


def _same_key(code: str) -> Act:
    """The same request twice, with the same Idempotency-Key, as a client does whose first answer was lost."""

    def act(side: Side, project: Project) -> Outcome:
        headers = {"Idempotency-Key": f"lab-{project.project_id}"}
        seen = []
        for _ in range(2):
            seen.append(side.run(project, code, headers=headers))
            kept(side, project)
        return Outcome(tuple(seen), {"file": side.read(project, "count")})

    return act


def _of_its_creation(**fault: Any) -> Callable[[Side, Project], tuple[Rule, ...]]:
    """A rule for the creation of the project's sandbox."""
    return lambda side, project: (
        {"rpc": "SandboxCreate*", "sandbox": f"{side.sandbox_name(project)}*", "times": 1, **fault},
    )


_LONG = "import time\nfor n in range(400): print(n, flush=True); time.sleep(0.1)\n"


def _platform_goes_away(side: Side, project: Project) -> Outcome:
    """In the middle of a job its output breaks off, and for a while every call about its sandbox fails."""
    assert side.faults is not None
    running = begun(side, project, _LONG)  # now nothing more is asked of the platform
    away: dict[str, Any] = {
        "rpc": "Task*",
        "app": side.app_name,
        "sandbox": f"{side.sandbox_name(project)}*",
        "status": "UNAVAILABLE",
    }
    with side.faults.injected(at="call", for_s=_AWAY_S, **away) as rule_id:
        wait([running], _AWAY_S + 30)
        calls = injected(side.faults, rule_id)
    return Outcome((running.result(),), {}, {f"calls to the platform failed for {_AWAY_S:.0f} s": calls})


_AWAY_S = 40.0
_ALL_LONG = "".join(f"{n}\n" for n in range(400))


def _outage_told(seen: Outcome) -> str | None:
    """That the platform was away, and that it is back, are statuses of a run that goes on."""
    times = sum((one.what, one.text) == ("status", "running") for one in seen.end.events)
    return None if times > _SAID_WITHOUT_IT else "nothing said that the platform was away"


_SAID_WITHOUT_IT = 1


def _container_dies_in_creation(side: Side, project: Project) -> Outcome:
    """The container dies when the platform has made the sandbox; and what becomes of that."""
    seen = side.run(project, "print('never')")
    within_s = _NAIVE_LEFT_S if isinstance(side, Naive) else _HARDENED_LEFT_S
    return Outcome((seen,), left_alive(side, project, within_s=within_s))


_NAIVE_LEFT_S = NAIVE_SANDBOX_S * 0.7
_HARDENED_LEFT_S = 40.0  # its sandboxes hear for nine seconds in the lab


_SAYS_WHO = """
import os, time
word = os.urandom(4).hex()
for n in range(30):
    print(word, n, flush=True); time.sleep(0.1)
"""


def _taken_away(side: Side, project: Project) -> Outcome:
    """The container is taken away in the middle of a job; its client comes back, as the endpoint lets it."""
    seen = [side.run(project, _SAYS_WHO)]
    if seen[0].ended == "cut":
        seen.append(side.again(seen[0], project, _SAYS_WHO))
    return Outcome(tuple(seen), {"text": "".join(one.text for one in seen)})


_TAKEN = {"at": "web", "path": "/generate", "delay_s": 1.5, "preempt": True, "grace_s": 6.0, "times": 1}


def _executed_again(seen: Outcome) -> str | None:
    times = len({line.split()[0] for line in str(seen.facts["text"]).splitlines()})
    return None if times == 1 else f"the client has the output of {times} executions"


def _every_line_once(seen: Outcome) -> str | None:
    numbers = [int(line.split()[1]) for line in str(seen.facts["text"]).splitlines()]
    return None if numbers == list(range(30)) else f"of 30 lines these arrived: {numbers}"


_SAYS_DEPLOYED = "/tmp/deployed"  # noqa: S108  # in a sandbox
_UNTIL_DEPLOYED = f"""
import os, time
left = 10
for n in range(1200):
    print(n, flush=True); time.sleep(0.1)
    left -= os.path.exists({_SAYS_DEPLOYED!r})
    if not left:
        print('told', flush=True)
        break
"""


def _deployed_meanwhile(side: Side, project: Project) -> Outcome:
    """The app is deployed again while a job runs, and then the page that shows the job is loaded again.

    The job prints until it is told, in its sandbox, that this was done: a second later it ends, within the time that
    the old container then has.
    """
    known: SimpleQueue[str] = SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(side.run, project, _UNTIL_DEPLOYED, reading=Reading(on_run=known.put))
        run_id = known.get(timeout=PATIENCE_S)
        side.deploy(lambda line: None)
        meanwhile = not first.done()
        for name in side.sandbox_names(project):
            with suppress(modal.Error):  # it ended with the container
                modal.Sandbox.from_name(side.app_name, name).exec("touch", _SAYS_DEPLOYED).wait()
        again = side.loaded_again(run_id)
        return Outcome((again, first.result()), {}, {"it was deployed while the job ran": int(meanwhile)})


def _page_is_empty(seen: Outcome) -> str | None:
    page, first = seen.observations
    if page.ended == "done":
        return None
    return f"the page, loaded again, {page} after {len(page.text.split())} lines; before that the job {first}"


def _both_have_all(seen: Outcome) -> str | None:
    ill = next((one for one in seen.observations if one.ended != "done" or not _whole(one.text)), None)
    return None if ill is None else f"a reader {ill}, with {len(ill.text.split())} lines: {ill.text[-20:]!r}"


def _whole(text: str) -> bool:
    *numbers, last = text.split() or [""]
    return (numbers, last) == ([*map(str, range(len(numbers)))], "told")


def _broke_off(seen: Outcome) -> str | None:
    return f"it {seen.end}, with {len(seen.end.text.split())} of 400 lines" if seen.end.ended != "error" else None


def _silent_until_its_output(seen: Outcome) -> str | None:
    """The output comes when there is a sandbox, for which the platform takes its time."""
    began, said = seen.end.first_text_s, seen.end.events[0].at_s if seen.end.events else seen.end.took_s
    told_first = began is not None and began - said > _CREATED_AFTER_S / 2
    return None if told_first else f"it said nothing for {said:.1f} s, until its output was there"


_CREATED_AFTER_S = 5


LIFE: dict[str, Experiment] = {
    "create-fails": Experiment(
        act=running("print('never')"),
        rules=_of_its_creation(status="FAILED_PRECONDITION"),
        harm=lied("nothing ran"),
        broken=told("sandbox_unavailable"),
    ),
    "dead-before-first-command": Experiment(
        act=running("print('at last')"),
        rules=lambda side, project: (
            {"rpc": "TaskExecStart", "sandbox": f"{side.sandbox_name(project)}*", "kill": "sandbox", "times": 1},
        ),
        harm=lied("nothing ran"),
        broken=same("at last\n"),
    ),
    "out-of-memory": Experiment(
        act=running("import time\nfor n in range(50): print(n, flush=True); time.sleep(0.1)\n"),
        rules=of_its_program("TaskExecStdioRead", at="stream", after_messages=2, exhaust="memory"),
        harm=lied("it was killed for its memory"),
        broken=told("out_of_memory"),
    ),
    "dies-mid-run": Experiment(
        act=running("import time\nfor n in range(50): print(n, flush=True); time.sleep(0.1)\n"),
        rules=of_its_program("TaskExecStdioRead", at="stream", after_messages=2, kill="sandbox"),
        harm=lied("its sandbox was killed in the middle of it"),
        broken=told("sandbox_lost"),
    ),
    "dies-in-commit": Experiment(
        act=running_and_reading(WRITES, "note.txt"),
        rules=of_its_commits(kill="sandbox"),
        harm=lied("its sandbox died before anything was kept"),
        broken=lambda seen: None if seen.end.ended == "error" else f"it {seen.end}",
    ),
    "duplicate-submit": Experiment(
        act=_same_key(COUNTS.format(pause_s=0)),
        harm=lambda seen: "it was executed twice" if seen.end.text != seen.observations[0].text else None,
        broken=first(same("1\n"), file_is("x")),
    ),
    "platform-away-40s": Experiment(
        act=_platform_goes_away,
        rules=of_its_program("TaskExecStdioRead", at="stream", after_messages=40, status="UNAVAILABLE", times=1),
        harm=_broke_off,
        broken=first(same(_ALL_LONG), _outage_told),
    ),
    "container-preempted": Experiment(
        act=_taken_away,
        rules=lambda side, project: (_TAKEN,),
        harm=_executed_again,
        broken=first(done, _executed_again, _every_line_once),
        alone=True,
    ),
    "deploy-under-a-run": Experiment(
        act=_deployed_meanwhile,
        harm=_page_is_empty,
        broken=_both_have_all,
        alone=True,
    ),
    "leaked-sandbox": Experiment(
        act=_container_dies_in_creation,
        rules=_of_its_creation(at="answer", kill="container"),
        harm=outlived("a sandbox is alive that nobody knows"),
        broken=outlived("a sandbox is alive that nobody knows"),
        alone=True,
    ),
    "cold-start-over-budget": Experiment(
        act=running("print('at last')"),
        rules=_of_its_creation(delay_s=_CREATED_AFTER_S),
        harm=_silent_until_its_output,
        broken=first(same("at last\n"), _silent_until_its_output),
    ),
}

"""What experiments are made of: how a failure mode is brought about at an endpoint, and how one sees what it did.

An experiment acts on one side at a time and says nothing of the other. `harm` looks at what the naive endpoint made of
it, `broken` at whether the hardened one kept its promise: both return a sentence, or None.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from pydantic import JsonValue

from workbench.cloud_control.controls import Faults
from workbench.failures.hops import Harm, Hop
from workbench.failures.observation import Observation
from workbench.failures.sides import PATIENCE_S, Reading, Side
from workbench.runs.project import Project

Rule = Mapping[str, Any]
Turn = str | Mapping[str, Any]
"""A turn of the model: its text, or its fields as in a script's YAML."""
Facts = Mapping[str, JsonValue]
"""What was looked up after the requests. It is kept with the result, so it is JSON."""


@dataclass(frozen=True)
class Outcome:
    """What an experiment has seen of one side: an observation for each request, and facts that were looked up after.

    `fired` says of each fault that is no rule of the cloud (a hop in front, a killed container) how often it acted or
    met something to act on. One that stays 0 makes the result invalid, as a rule does that never fired. `moments` says
    when, in Unix seconds, where that is known.
    """

    observations: tuple[Observation, ...]
    facts: Facts = field(default_factory=dict)
    fired: Mapping[str, int] = field(default_factory=dict)
    moments: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def end(self) -> Observation:
        """The last request's observation."""
        return self.observations[-1]


Act = Callable[[Side, Project], Outcome]
Judge = Callable[[Outcome], str | None]


@dataclass(frozen=True)
class Experiment:
    """One failure mode, brought about. `rules` are fault rules; an experiment without any needs none to fail.

    One of jobs of the Claude CLI has `turns`, what the model answers: then the job without the fault is one, too.

    One that ends containers or deploys meets every job of the lab's apps: it has them `alone`. One that deploys `twins`
    of them meets only others that do. One that ends the cloud has an `own_cloud`, and its sides act there one after the
    other.
    """

    act: Act
    harm: Judge
    broken: Judge
    rules: Callable[[Side, Project], tuple[Rule, ...]] = lambda side, project: ()
    turns: tuple[Turn, ...] = ()
    alone: bool = False
    twins: bool = False
    own_cloud: bool = False


def running(code: str, **options: Any) -> Act:
    """Run one program."""
    return lambda side, project: Outcome((side.run(project, code, **options),))


def through(harm: Harm, act: Callable[[Side, Project, str], tuple[Observation, ...]]) -> Act:
    """Act through a hop that does this harm unless a header forbids it; `act` gets the hop's address."""

    def acting(side: Side, project: Project) -> Outcome:
        with Hop(side.url, harm) as hop:
            seen = act(side, project, hop.url)
            return Outcome(seen, {"harmed": hop.harmed}, {f"a hop that {harm} met a stream": hop.met})

    return acting


def cut_and_back(code: str, *, cut_after_s: float) -> Act:
    """A connection that is cut once; the client comes back for the rest, as the endpoint lets it."""

    def act(side: Side, project: Project) -> Outcome:
        with Hop(side.url, cut_after_s=cut_after_s) as hop:
            first = side.run(project, code, url=hop.url)
            seen = (first, side.again(first, project, code, url=hop.url))
            cut = int(first.ended == "cut" and hop.harmed)
            return Outcome(seen, {"text": first.text + seen[1].text}, {"the hop cut the connection": cut})

    return act


def running_and_reading(code: str, path: str) -> Act:
    """Run one program, and read a file of its project from outside as soon as the endpoint has told the end."""

    def act(side: Side, project: Project) -> Outcome:
        seen = side.run(project, code)
        return Outcome((seen,), {"file": side.read(project, path)})

    return act


def kept(side: Side, project: Project, *, patience_s: float = PATIENCE_S) -> None:
    """Wait until what a project's jobs have written is kept, which the naive endpoint leaves to its sandboxes' ends."""
    deadline = time.monotonic() + patience_s
    while side.alive(project) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)


_LOOK_S = 0.1


def injected(faults: Faults, rule_id: str) -> int:
    """Into how many calls a rule has injected its fault, also when it is over."""
    return next(one.injected for one in (*faults.ended(), *faults.rules()) if one.rule_id == rule_id)


def of_its_commits(**fault: Any) -> Callable[[Side, Project], tuple[Rule, ...]]:
    """A rule for the commits of the project's sandbox."""
    return lambda side, project: ({"at": "commit", "sandbox": f"{side.sandbox_name(project)}*", **fault},)


def of_its_program(rpc: str, **fault: Any) -> Callable[[Side, Project], tuple[Rule, ...]]:
    """A rule for the job's program in the project's sandbox, and not for what the endpoint runs around it."""
    return lambda side, project: (
        {"rpc": rpc, "sandbox": f"{side.sandbox_name(project)}*", "argv": side.program, **fault},
    )


def lied(said: str) -> Judge:
    """The side said `done`, and it was not; or it said nothing at all."""

    def judge(outcome: Outcome) -> str | None:
        if outcome.end.ended == "done":
            return f"it {outcome.end}, and {said}"
        return f"its stream {outcome.end}" if outcome.end.ended in ("cut", "silent") else None

    return judge


def told(*codes: str) -> Judge:
    """The side must end in an error of one of these codes."""

    def judge(outcome: Outcome) -> str | None:
        end = outcome.end
        return None if end.ended == "error" and end.code in codes else f"it {end}, and not error {' or '.join(codes)}"

    return judge


def same(text: str) -> Judge:
    """The side must end well, with exactly this output."""

    def judge(outcome: Outcome) -> str | None:
        if outcome.end.ended != "done":
            return f"it {outcome.end}"
        return None if outcome.end.text == text else f"what arrived is not what was printed: {outcome.end.text[:80]!r}"

    return judge


def first(*judges: Judge) -> Judge:
    """The first of these judges that has something to say."""
    return lambda outcome: next((said for judge in judges if (said := judge(outcome)) is not None), None)


def file_is(content: str | None) -> Judge:
    """The file that was read outside must hold this; None: it must not be there."""
    return lambda outcome: None if outcome.facts["file"] == content else f"the file holds {outcome.facts['file']!r}"


def not_the_file(content: str) -> Judge:
    """The file that was read outside does not hold this."""
    return lambda outcome: f"it {outcome.end}, and the file is not there" if outcome.facts["file"] != content else None


def late(said: str) -> Judge:
    """The side did not end well, or its first output came less than 1.5 s before its last; the job's are four apart.

    What is not held back arrives with the pauses between it, however busy the machine is.
    """

    def judge(seen: Outcome) -> str | None:
        if seen.end.ended != "done":
            return f"it {seen.end}"
        began, ended = seen.end.first_text_s, seen.end.last_text_s
        if began is not None and ended is not None and ended - began >= _APART_S:
            return None
        return f"{said}: the first output came after {began} s, the last after {ended} s"

    return judge


def left_alive(side: Side, project: Project, *, within_s: float) -> dict[str, JsonValue]:
    """Wait until no sandbox of a project is alive; the facts say how many still are after so many seconds."""
    kept(side, project, patience_s=within_s)
    return {"alive": side.alive(project), "after_s": within_s}


def outlived(said: str) -> Judge:
    """A sandbox is alive when it should not be."""
    return lambda outcome: (
        f"{float(str(outcome.facts['after_s'])):.0f} s later {said}" if outcome.facts["alive"] else None
    )


def begun(side: Side, project: Project, code: str, **options: Any) -> Future[Observation]:
    """Run one program, and return when its first output has arrived, or its end. The future is of its observation."""
    first: SimpleQueue[None] = SimpleQueue()
    reading = Reading(on_text=lambda text: first.put(None))
    pool = ThreadPoolExecutor(1)
    running = pool.submit(side.run, project, code, reading=reading, **options)
    pool.shutdown(wait=False)
    running.add_done_callback(lambda done: first.put(None))
    first.get()
    return running


def done(seen: Outcome) -> str | None:
    """The side must end well."""
    return None if seen.end.ended == "done" else f"it {seen.end}"


_APART_S = 1.5

WRITES = "open('note.txt', 'w').write('kept'); print('written')"
"""A job that leaves a file."""

COUNTS = """
import os, time
seen = open('count').read() if os.path.exists('count') else ''
time.sleep({pause_s})
open('count', 'w').write(seen + 'x')
print(len(seen) + 1)
"""
"""A job that notes in its project that it ran, after a pause, and prints how often it has."""

SLOW = "import time\nfor n in range(20):\n    print('line', n, flush=True); time.sleep(0.2)\n"
"""A job of four seconds that prints a line every 0.2 seconds, and says so at once."""

"""Experiments: how one failure mode is brought about at an endpoint, and how one sees whether it did harm.

An experiment acts on one side at a time and says nothing of the other. `harm` looks at what the naive endpoint made of
it, `broken` at whether the hardened one kept its promise: both return a sentence, or None.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import WorkbenchError
from workbench.failures.observation import Observation
from workbench.failures.sides import CANARY, Side
from workbench.runs.project import Project

Rule = Mapping[str, Any]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What an experiment has seen of one side: an observation for each request, and facts that were looked up after."""

    observations: tuple[Observation, ...]
    facts: Facts = field(default_factory=dict)

    @property
    def end(self) -> Observation:
        """The last request's observation."""
        return self.observations[-1]


Act = Callable[[Side, Project], Outcome]
Judge = Callable[[Outcome], str | None]


@dataclass(frozen=True)
class Experiment:
    """One failure mode, brought about. `rules` are fault rules; an experiment without any needs none to fail."""

    act: Act
    harm: Judge
    broken: Judge
    rules: Callable[[Side, Project], tuple[Rule, ...]] = lambda side, project: ()


class NotProvokedError(WorkbenchError):
    """A mode that is in the catalogue, and that nothing here brings about yet."""


def running(code: str, **options: Any) -> Act:
    """Run one program."""
    return lambda side, project: Outcome((side.run(project, code, **options),))


def running_and_reading(code: str, path: str) -> Act:
    """Run one program, and read a file of its project from outside as soon as the endpoint has told the end."""

    def act(side: Side, project: Project) -> Outcome:
        seen = side.run(project, code)
        return Outcome((seen,), {"file": side.read(project, path)})

    return act


def of_its_commits(**fault: Any) -> Callable[[Side, Project], tuple[Rule, ...]]:
    """A rule for the commits of the project's sandbox."""
    return lambda side, project: ({"at": "commit", "sandbox": f"{side.sandbox_name(project)}*", **fault},)


def of_its_program(rpc: str, **fault: Any) -> Callable[[Side, Project], tuple[Rule, ...]]:
    """A rule for the job's program in the project's sandbox, and not for what the endpoint runs around it."""
    return lambda side, project: (
        {"rpc": rpc, "sandbox": f"{side.sandbox_name(project)}*", "argv": side.program, **fault},
    )


def _lied(said: str) -> Judge:
    """The side said `done`, and it was not; or it said nothing at all."""

    def judge(outcome: Outcome) -> str | None:
        if outcome.end.ended == "done":
            return f"it {outcome.end}, and {said}"
        return f"its stream {outcome.end}" if outcome.end.ended in ("cut", "silent") else None

    return judge


def _told(*codes: str) -> Judge:
    """The side must end in an error of one of these codes."""

    def judge(outcome: Outcome) -> str | None:
        end = outcome.end
        return None if end.ended == "error" and end.code in codes else f"it {end}, and not error {' or '.join(codes)}"

    return judge


def _same(text: str) -> Judge:
    """The side must end well, with exactly this output."""

    def judge(outcome: Outcome) -> str | None:
        if outcome.end.ended != "done":
            return f"it {outcome.end}"
        return None if outcome.end.text == text else f"what arrived is not what was printed: {outcome.end.text[:80]!r}"

    return judge


def _first(*judges: Judge) -> Judge:
    return lambda outcome: next((said for judge in judges if (said := judge(outcome)) is not None), None)


def _file_is(content: str | None) -> Judge:
    return lambda outcome: None if outcome.facts["file"] == content else f"the file holds {outcome.facts['file']!r}"


def _not_the_file(content: str) -> Judge:
    return lambda outcome: f"it {outcome.end}, and the file is not there" if outcome.facts["file"] != content else None


_WRITES = "open('note.txt', 'w').write('kept'); print('written')"


def _at_once(code: str) -> Act:
    """Two requests for the same project, the second while the first works."""

    def act(side: Side, project: Project) -> Outcome:
        first: list[Observation] = []
        thread = threading.Thread(target=lambda: first.append(side.run(project, code)))
        thread.start()
        time.sleep(1.0)  # the first has read the file, and not written it
        second = side.run(project, code)
        thread.join()
        return Outcome((first[0], second), {"file": side.read(project, "count")})

    return act


def _same_key(code: str) -> Act:
    """The same request twice, with the same Idempotency-Key, as a client does whose first answer was lost."""

    def act(side: Side, project: Project) -> Outcome:
        headers = {"Idempotency-Key": f"lab-{project.project_id}"}
        seen = tuple(side.run(project, code, headers=headers) for _ in range(2))
        return Outcome(seen, {"file": side.read(project, "count")})

    return act


def _in_a_foreign_project(side: Side, project: Project) -> Outcome:
    """A project's id that leads into somebody else's directory."""
    other = Project.new()
    side.run(other, "open('secret.txt', 'w').write('of somebody else')")
    ids = {
        "project": f"{project.user_id}/../{other.user_id}/{other.project_id}",
        "project_id": f"../{other.user_id}/{other.project_id}",
    }
    asked = side.request(project, "", None)
    body = {name: value for name, value in ids.items() if name in asked}
    return Outcome((side.run(project, "print(open('secret.txt').read())", body=body),))


_COUNTS = """
import os, time
seen = open('count').read() if os.path.exists('count') else ''
time.sleep({pause_s})
open('count', 'w').write(seen + 'x')
print(len(seen) + 1)
"""

EXPERIMENTS: dict[str, Experiment] = {
    # -- streaming
    "output-without-newline": Experiment(
        act=running(
            "import sys, time\nfor n in range(20):\n"
            "    sys.stdout.write('\\r%d%%' % (n * 5)); sys.stdout.flush(); time.sleep(0.2)\n"
        ),
        harm=lambda seen: _late(seen, of="nothing was shown while it ran"),
        broken=lambda seen: _late(seen, of="the first of it was late"),
    ),
    "job-buffers-its-output": Experiment(
        act=running("import time\nfor n in range(20):\n    print('line', n); time.sleep(0.2)\n"),
        harm=lambda seen: _late(seen, of="everything came at the end"),
        broken=lambda seen: _late(seen, of="the first of it was late"),
    ),
    "stream-ended-without-exit-code": Experiment(
        act=running("import time\nfor n in range(10): print(n, flush=True); time.sleep(0.1)\n"),
        rules=of_its_program("TaskExecStdioRead", at="stream", after_messages=2, status="DATA_LOSS"),
        harm=_lied("half of its output is missing"),
        broken=_told("stream_lost", "sandbox_lost"),
    ),
    "idle-cut": Experiment(
        act=running("import time\ntime.sleep(14)\nprint('thought')\n"),
        rules=lambda side, project: ({"at": "web", "path": "/generate", "idle_cut_s": 12},),
        harm=_lied("nothing was said of the cut"),
        broken=_same("thought\n"),
    ),
    # -- persistence
    "missing-commit": Experiment(
        act=running_and_reading(_WRITES, "note.txt"),
        rules=of_its_commits(delay_s=2),  # as long as the platform may take
        harm=_not_the_file("kept"),
        broken=_first(_same("written\n"), _file_is("kept")),
    ),
    "commit-acknowledged-and-lost": Experiment(
        act=running_and_reading(_WRITES, "note.txt"),
        rules=of_its_commits(lose=True),
        harm=_lied("nothing of it is kept"),
        broken=_first(_told("commit_failed"), _file_is(None)),
    ),
    "commit-fails": Experiment(
        act=running_and_reading(_WRITES, "note.txt"),
        rules=of_its_commits(status="INTERNAL"),
        harm=_lied("nothing of it is kept"),
        broken=_first(_told("commit_failed"), _file_is(None)),
    ),
    "two-writers": Experiment(
        act=_at_once(_COUNTS.format(pause_s=3)),
        harm=lambda seen: (
            f"both said that they are done, and the file counts {seen.facts['file']!r}"
            if all(one.ended == "done" for one in seen.observations) and seen.facts["file"] != "xx"
            else None
        ),
        broken=lambda seen: (
            None
            if (seen.observations[0].ended, seen.end.ended, seen.end.code) == ("done", "refused", "project_busy")
            else f"the first {seen.observations[0]}, the second {seen.end}"
        ),
    ),
    "volume-full": Experiment(
        act=running("import time\nfor n in range(50): print(n, flush=True); time.sleep(0.1)\n"),
        rules=of_its_program("TaskExecStdioRead", at="stream", after_messages=2, exhaust="disk"),
        harm=_lied("its disk was full"),
        broken=_told("sandbox_lost", "commit_failed"),
    ),
    "name-cannot-be-committed": Experiment(
        act=running_and_reading("open(b'caf\\xe9', 'w').write('x'); open('note.txt', 'w').write('kept')", "note.txt"),
        harm=_lied("one of its files can never be kept"),
        broken=_first(_told("commit_failed"), _file_is("kept")),
    ),
    # -- time
    "process-timeout": Experiment(
        act=running("import time\nprint('begun', flush=True)\ntime.sleep(600)\n", timeout_s=2),
        harm=_lied("the program had not ended"),
        broken=_told("process_timeout"),
    ),
    # -- life
    "create-fails": Experiment(
        act=running("print('never')"),
        rules=lambda side, project: ({"rpc": "SandboxCreate*", "status": "FAILED_PRECONDITION", "times": 1},),
        harm=_lied("nothing ran"),
        broken=_told("sandbox_unavailable"),
    ),
    "dead-before-first-command": Experiment(
        act=running("print('never')"),
        rules=lambda side, project: (
            {"rpc": "TaskExecStart", "sandbox": f"{side.sandbox_name(project)}*", "kill": "sandbox", "times": 1},
        ),
        harm=_lied("nothing ran"),
        broken=_told("sandbox_unavailable"),
    ),
    "out-of-memory": Experiment(
        act=running("import time\nfor n in range(50): print(n, flush=True); time.sleep(0.1)\n"),
        rules=of_its_program("TaskExecStdioRead", at="stream", after_messages=2, exhaust="memory"),
        harm=_lied("it was killed for its memory"),
        broken=_told("out_of_memory"),
    ),
    "dies-mid-run": Experiment(
        act=running("import time\nfor n in range(50): print(n, flush=True); time.sleep(0.1)\n"),
        rules=of_its_program("TaskExecStdioRead", at="stream", after_messages=2, kill="sandbox"),
        harm=_lied("its sandbox was killed in the middle of it"),
        broken=_told("sandbox_lost"),
    ),
    "dies-in-commit": Experiment(
        act=running_and_reading(_WRITES, "note.txt"),
        rules=of_its_commits(kill="sandbox"),
        harm=_lied("its sandbox died before anything was kept"),
        broken=lambda seen: None if seen.end.ended == "error" else f"it {seen.end}",
    ),
    "duplicate-submit": Experiment(
        act=_same_key(_COUNTS.format(pause_s=0)),
        harm=lambda seen: "it was executed twice" if seen.end.text != seen.observations[0].text else None,
        broken=_first(_same("1\n"), _file_is("x")),
    ),
    # -- security
    "path-traversal": Experiment(
        act=_in_a_foreign_project,
        harm=lambda seen: "it gave somebody else's file" if "of somebody else" in seen.end.text else None,
        broken=lambda seen: None if seen.end.ended == "refused" else f"it {seen.end}",
    ),
    "secret-probed-from-inside": Experiment(
        act=running("import os, json\nprint(json.dumps(dict(os.environ)))\n"),
        harm=lambda seen: "the model's key is in the job's environment" if CANARY in seen.end.text else None,
        broken=lambda seen: (
            f"the environment holds {found}" if (found := _secret_words(seen.end.text)) else _done(seen)
        ),
    ),
}


def _late(seen: Outcome, *, of: str, within_s: float = 2.5) -> str | None:
    """A sentence when the first output came more than `within_s` seconds after the request: the job takes four."""
    if seen.end.ended != "done":
        return f"it {seen.end}"
    first = seen.end.first_text_s
    return None if first is not None and first < within_s else f"{of}: the first output came after {first} s"


def _done(seen: Outcome) -> str | None:
    return None if seen.end.ended == "done" else f"it {seen.end}"


def _secret_words(environment: str) -> str:
    return next((word for word in ("KEY", "SECRET", "TOKEN", "PASSWORD") if word in environment.upper()), "")


def experiment_of(name: str) -> Experiment:
    """The experiment of a mode. Raises NotProvokedError."""
    if name not in EXPERIMENTS:
        raise NotProvokedError(
            f"nothing brings '{name}' about yet: `workbench failures show {name}` says how it is provoked by hand"
        )
    return EXPERIMENTS[name]

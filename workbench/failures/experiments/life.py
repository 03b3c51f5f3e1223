"""Failure modes of what lives and dies, brought about."""

from workbench.failures.experiments.basics import (
    COUNTS,
    WRITES,
    Act,
    Experiment,
    Outcome,
    file_is,
    first,
    lied,
    of_its_commits,
    of_its_program,
    running,
    running_and_reading,
    same,
    told,
)
from workbench.failures.sides import Side
from workbench.runs.project import Project


def _same_key(code: str) -> Act:
    """The same request twice, with the same Idempotency-Key, as a client does whose first answer was lost."""

    def act(side: Side, project: Project) -> Outcome:
        headers = {"Idempotency-Key": f"lab-{project.project_id}"}
        seen = tuple(side.run(project, code, headers=headers) for _ in range(2))
        return Outcome(seen, {"file": side.read(project, "count")})

    return act


LIFE: dict[str, Experiment] = {
    "create-fails": Experiment(
        act=running("print('never')"),
        rules=lambda side, project: ({"rpc": "SandboxCreate*", "status": "FAILED_PRECONDITION", "times": 1},),
        harm=lied("nothing ran"),
        broken=told("sandbox_unavailable"),
    ),
    "dead-before-first-command": Experiment(
        act=running("print('never')"),
        rules=lambda side, project: (
            {"rpc": "TaskExecStart", "sandbox": f"{side.sandbox_name(project)}*", "kill": "sandbox", "times": 1},
        ),
        harm=lied("nothing ran"),
        broken=told("sandbox_unavailable"),
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
}

"""Failure modes of time limits, brought about."""

from workbench.deployment import deploy as deployment
from workbench.deployment.deploy import DeployFailedError
from workbench.failures.experiments.basics import (
    Experiment,
    Outcome,
    cut_and_back,
    done,
    first,
    lied,
    running,
    told,
)
from workbench.failures.sides import NAIVE_SANDBOX_S, Naive, Side
from workbench.runs.project import Project

_DAY_S = 86_400
_OUTLIVES = f"import time\nprint('begun', flush=True)\ntime.sleep({NAIVE_SANDBOX_S + 20})\nprint('never said')\n"


def _limits_in_the_wrong_order(side: Side, project: Project) -> Outcome:
    """A job that lives longer than its sandbox; the hardened endpoint is asked to be deployed with such limits."""
    if isinstance(side, Naive):
        seen = side.run(project, _OUTLIVES)
        return Outcome((seen,), fired={"the job was cut short": int("never said" not in seen.text)})
    limits = {"WORKBENCH_TIMEOUT_PROCESS_S": "600", "WORKBENCH_TIMEOUT_SANDBOX_S": "300"}
    try:
        deployment.deploy(
            side.target, app_name=side.app_name, with_claude=side.has_claude, scripted=True, settings=limits
        )
        refused = ""
    except DeployFailedError as error:
        refused = str(error)
    seen = side.run(project, "print('still here')")
    return Outcome((seen,), {"refused": refused[:2000]})


_SAYS_WHO = "import os, time\nword = os.urandom(8).hex()\nprint(word, flush=True); time.sleep(4); print(word)\n"


def _who(seen: Outcome) -> list[str]:
    """The words that executions of the job have said, each its own."""
    return str(seen.facts["text"]).split()


TIME: dict[str, Experiment] = {
    "process-timeout": Experiment(
        act=running("import time\nprint('begun', flush=True)\ntime.sleep(600)\n", timeout_s=2),
        harm=lied("the program had not ended"),
        broken=told("process_timeout"),
    ),
    "sandbox-times-out-first": Experiment(
        act=_limits_in_the_wrong_order,
        harm=lied("the sandbox was gone before the job had ended"),
        broken=first(
            done,
            lambda seen: None if "process_s" in str(seen.facts["refused"]) else "limits in the wrong order were taken",
        ),
        alone=True,
    ),
    "upstream-times-out-first": Experiment(
        act=cut_and_back(_SAYS_WHO, cut_after_s=1.5),  # a caller whose own time is over, and who comes back
        harm=lambda seen: f"it was executed {len(set(_who(seen)))} times" if len(set(_who(seen))) > 1 else None,
        broken=first(
            done, lambda seen: None if (len(_who(seen)), len(set(_who(seen)))) == (2, 1) else f"it said {_who(seen)}"
        ),
    ),
    "24h-limit": Experiment(
        act=running(_OUTLIVES, timeout_s=_DAY_S + 3600),
        harm=lied("the job was cut short by a limit that nobody had told"),
        broken=lambda seen: (
            None
            if (seen.end.ended, seen.end.code) == ("refused", "invalid_request")
            else f"a limit of 25 hours was taken: it {seen.end}"
        ),
    ),
}

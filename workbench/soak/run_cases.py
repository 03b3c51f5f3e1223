"""The cases of the soak of runs: the job, the fault and its moment, the readers; and how the run may then end."""

import random
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from modal_app.contract.events import DoneEvent, ErrorEvent, Event, StreamEvent
from workbench.soak.soak_failures import SoakFailedError

Harm = Literal[
    "nothing",
    "the client leaves",
    "it is cancelled",
    "a container is killed",
    "a container is preempted",
    "the sandbox is killed",
    "the cloud is killed",
    "a call fails",
    "an answer is lost",
    "a stream breaks",
    "a commit is lost",
    "a commit fails",
    "the creation is interrupted",
    "the response is cut",
    "a container is stopped",
    "the cloud is stopped",
]
HARMS: tuple[Harm, ...] = get_args(Harm)
_WEIGHTS = (10, 8, 6, 5, 3, 8, 1, 12, 12, 12, 5, 4, 7, 7, 4, 2)
# The RPCs of the endpoint and of its sandboxes that faults are injected into.
_RPCS = ("Sandbox*", "Task*", "Queue*", "Dict*", "Volume*", "Queue*", "Dict*", "Function*", "*")
_STREAMS = ("TaskExecStdioRead", "Task*", "FunctionCallGetData*", "*")
_STATUSES = ("UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED")
_TO_ITS_READER = frozenset(("nothing", "the client leaves"))  # harm that must not change how the run ends
# How a run may end when a fault was injected into it, or into others while it went on. `internal` is not allowed, nor
# is any time limit, because nothing here takes that long.
_PERMITTED = frozenset(
    (
        "container_lost",
        "sandbox_lost",
        "stream_lost",
        "sandbox_unavailable",
        "commit_failed",
        "cancelled",
        "project_busy",
    )
)
_CODE = """
import random, sys, time
chance = random.Random({seed})
with open("ran", "a") as file:
    file.write("x")
for _ in range({lines}):
    sys.stdout.write("".join(chance.choices("aé日 b\\n", k=chance.randint(1, 300))))
    sys.stdout.flush()
    time.sleep({pause_s})
sys.exit({exit_code})
"""


@dataclass(frozen=True)
class Case:
    """One run, derived from seed and number. `harm` is done `at_s` seconds after its start, by `rule` if not None.

    What is stopped gets no processor for `stopped_s` seconds.
    """

    number: int
    harm: Harm
    at_s: float
    rule: dict[str, Any] | None
    job_seed: int
    lines: int
    pause_s: float
    exit_code: int
    readers: int
    stopped_s: float = 0

    @classmethod
    def choose(cls, seed: int, number: int) -> "Case":
        """Choose a case; the same seed and number always give the same case."""
        chance = random.Random(f"{seed}/runs/{number}")  # noqa: S311  # to be repeated, not to be secret
        harm = chance.choices(HARMS, _WEIGHTS)[0]
        return cls(
            number=number,
            harm=harm,
            at_s=chance.choice((0.0, chance.uniform(0, 0.3), chance.uniform(0, 2.0))),
            rule=_rule(harm, chance),
            job_seed=chance.randrange(2**32),
            lines=chance.choice((0, 5, 40, 200)),
            pause_s=chance.choice((0.0, 0.002, 0.02)),
            exit_code=chance.choice((0, 0, 0, 3)),
            readers=chance.randint(1, 3),
            stopped_s=chance.uniform(0, 12),
        )

    @property
    def code(self) -> str:
        """The job's program: it adds a mark to a file for each execution, and prints output derived from its seed."""
        return _CODE.format(seed=self.job_seed, lines=self.lines, pause_s=self.pause_s, exit_code=self.exit_code)

    @property
    def output(self) -> str:
        """The complete output of the job."""
        chance = random.Random(self.job_seed)  # noqa: S311  # the same generator as in the job
        return "".join("".join(chance.choices("aé日 b\n", k=chance.randint(1, 300))) for _ in range(self.lines))

    def __str__(self) -> str:
        return f"run {self.number} ({self.harm} after {self.at_s:.3f} s{f', {self.rule}' if self.rule else ''})"

    def unharmed(self) -> "Case":
        """The same case without any harm, whose job ends with exit code 0."""
        return replace(self, harm="nothing", rule=None, exit_code=0)

    def check(self, events: list[Event], executions: int | None, *, disturbed: bool = False) -> str:
        """Check that a run has ended in an allowed way, and return how it ended. Raises SoakFailedError.

        `executions` is how many marks the job has left in the committed files, None when that is not known; `disturbed`
        says whether a fault that may affect any run was injected meanwhile.
        """
        end = events[-1]
        text = "".join(one.text for one in events if isinstance(one, StreamEvent) and one.channel == "stdout")
        if executions is not None and executions > 1:
            raise SoakFailedError(f"the job was executed {executions} times")
        if isinstance(end, DoneEvent):
            if self.exit_code:
                raise SoakFailedError(f"done, though the job's exit code is {self.exit_code}")
            if text != self.output:
                raise SoakFailedError(f"done, with {len(text)} characters of output that are not the job's")
            if executions == 0:
                raise SoakFailedError("done, but what the job wrote is not there")
            return "done"
        if not isinstance(end, ErrorEvent):
            raise SoakFailedError(f"the last event is {end.type}")
        if not self.output.startswith(text):
            raise SoakFailedError(f"{end.code}, with output that is no beginning of the job's")
        if end.code == "process_failed":
            if end.exit_code != self.exit_code or text != self.output:
                raise SoakFailedError(f"the job failed with exit code {end.exit_code}, not {self.exit_code}")
        elif end.code not in _PERMITTED or (self.harm in _TO_ITS_READER and not disturbed):
            raise SoakFailedError(f"it ended in {end.code}: {end.message}")
        return str(end.code)


def _rule(harm: Harm, chance: random.Random) -> dict[str, Any] | None:
    nth, status = chance.randint(1, 4), chance.choice(_STATUSES)
    match harm:
        case "a call fails":
            return {"at": "call", "rpc": chance.choice(_RPCS), "status": status, "nth": nth}
        case "an answer is lost":
            return {"at": "answer", "rpc": chance.choice(_RPCS), "status": status, "nth": nth}
        case "a stream breaks":
            messages = chance.randint(0, 3)
            rpc = chance.choice(_STREAMS)
            return {"at": "stream", "rpc": rpc, "status": status, "after_messages": messages, "nth": nth}
        case "a commit is lost":
            return {"at": "commit", "lose": True, "nth": chance.randint(1, 2)}
        case "a commit fails":
            return {"at": "commit", "status": "INTERNAL", "nth": chance.randint(1, 2)}
        case "the creation is interrupted":
            at = chance.choice(("call", "answer"))
            how: dict[str, Any] = chance.choice(({"status": "UNAVAILABLE"}, {"delay_s": 1.0}))
            return {"at": at, "rpc": "SandboxCreate*", "times": chance.randint(1, 3), **how}
        case "the response is cut":
            return {"at": "web", "path": "/generate*", "cut_after_s": chance.uniform(0, 1), "times": 2}
        case "a container is preempted":
            return {"at": "web", "path": "/generate*", "preempt": True, "times": 1}
        case "the sandbox is killed":
            return {"at": "call", "rpc": "Task*", "kill": "sandbox", "nth": nth}
    return None

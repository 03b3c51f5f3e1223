"""What is examined: an endpoint as its callers reach it, where it is deployed, and the jobs that lines share."""

import secrets
import uuid
from dataclasses import dataclass, field
from functools import cached_property

from workbench.checks.caller import Caller, Reading
from workbench.deployment.endpoint import Endpoint
from workbench.deployment.targets import Target
from workbench.runs.project import Project

LINES = 6
PAUSE_S = 0.3
STREAM_S = 20  # the longest that the job of the stream may take
SHORT_S = 1  # the deadline of the job that is to miss it
CANCELLED_S = 5  # for the job that is cancelled: a hop may hold back the output at which it is
OTHER_S = 10  # the longest that any other job may take
JOBS = 5
SANDBOX_SECONDS = STREAM_S + SHORT_S + CANCELLED_S + 2 * OTHER_S
"""The most that the jobs of one check may take together; sandboxes also start and end, some seconds each."""
MARK = "checklist-mark.txt"


@dataclass(frozen=True)
class Subject:
    """An endpoint and its target. `direct` is the deployment's own address, `caller` asks by the one that is checked.

    `upstream_s` is for how long whoever is in front of it waits for a response, where that is known.
    """

    target: Target
    app_name: str
    caller: Caller
    direct: Endpoint
    cold_start_s: float
    upstream_s: float | None = None
    project: Project = field(default_factory=Project.new)
    other: Project = field(default_factory=Project.new)
    nonce: str = field(default_factory=lambda: secrets.token_hex(12))
    made: list[Project] = field(default_factory=list)
    key: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def owned(self) -> bool:
        """Whether the target's own interface can be asked: not for an endpoint given by URL."""
        return self.target.kind != "url"

    def fresh(self) -> Project:
        """A project of the check's own, which is removed at its end."""
        self.made.append(Project.new())
        return self.made[-1]

    @property
    def code(self) -> str:
        """The job of the stream: it leaves a mark, and prints lines that say when they were printed."""
        return (
            f"import time\nopen({MARK!r}, 'w').write({self.nonce!r})\n"
            f"for n in range({LINES}):\n    print(n, time.monotonic())\n    time.sleep({PAUSE_S})\n"
        )

    @cached_property
    def streamed(self) -> Reading:
        """The stream of the first job, as the caller sees it."""
        return self.caller.job(self.project, self.code, timeout_s=STREAM_S, key=self.key)

    @cached_property
    def late(self) -> Reading:
        """A job that misses its deadline."""
        return self.caller.job(self.fresh(), "import time; time.sleep(30)", timeout_s=SHORT_S)

    @cached_property
    def failing(self) -> Reading:
        """A job that fails, with a text of its own that no error may repeat."""
        return self.caller.job(self.fresh(), f"raise ValueError({self.nonce!r})", timeout_s=OTHER_S)

    @cached_property
    def cancelled(self) -> Reading:
        """A job that is cancelled at its first output."""
        code = "import time; print('begun'); time.sleep(30)"
        return self.caller.job(self.fresh(), code, timeout_s=CANCELLED_S, cancel=True)

    @cached_property
    def neighbour(self) -> Reading:
        """A job of another tenant that looks for the first one's mark."""
        mine = f"{self.project.user_id}/{self.project.project_id}/{MARK}"
        code = (
            "import os\nfor where, _, names in os.walk('/workspace'):\n"
            f"    for name in names:\n        if name == {MARK!r}: print(open(os.path.join(where, name)).read())\n"
            f"for path in ('/workspace/../{mine}', '/workspace/../../{mine}', '/projects/{mine}'):\n"
            "    try:\n        print(open(path).read())\n    except OSError:\n        pass\nprint('looked')\n"
        )
        return self.caller.job(self.other, code, timeout_s=OTHER_S)

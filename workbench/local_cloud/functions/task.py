"""A function's container as its pool sees it, with the inputs that it works on."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from workbench.local_cloud.functions.container import Container
from workbench.local_cloud.functions.function_calls import Input


@dataclass(eq=False)
class Task:
    """A function's container in the pool.

    `capacity` is how many inputs it takes at once. `enqueued_at` and `started_at` are Unix seconds by the cloud's
    clock, `idle_since` is that clock's monotonic time. `inputs` are by id, `cancellations` are ids for the next
    heartbeat. A `draining` container gets no further inputs. `hello` says that its client has started. A container of
    an image's build gets the inputs in `own` and no others; it is None for those of deployed functions.
    """

    task_id: str
    function_id: str
    definition_id: str
    capacity: int
    enqueued_at: float
    idle_since: float
    started_at: float = 0
    container: Container | None = None
    inputs: dict[str, Input] = field(default_factory=dict)
    cancellations: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    draining: bool = False
    hello: bool = False
    ready: bool = False  # it has asked for inputs
    spent: bool = False  # its function takes one input per container, and it has got that
    preempted: bool = False
    own: deque[Input] | None = None

    def wake(self) -> None:
        """Wake everything that waits for a change of this task."""
        self.changed.set()
        self.changed = asyncio.Event()

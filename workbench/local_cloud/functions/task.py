"""A container in its function's pool, with what it is working on."""

import asyncio
from dataclasses import dataclass, field

from workbench.local_cloud.functions.container import Container
from workbench.local_cloud.functions.function_calls import Input


@dataclass(eq=False)
class Task:
    """A container in the pool with what it is working on."""

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
    spent: bool = False  # it was made for one input, which it has
    preempted: bool = False

    def wake(self) -> None:
        """Make those who wait for a change of this task look again."""
        self.changed.set()
        self.changed = asyncio.Event()

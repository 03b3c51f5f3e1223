"""One sandbox as Modal knows it, from its creation to long after its end."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from workbench.local_cloud.sandboxes.engine.execs import Exec
from workbench.local_cloud.sandboxes.engine.readiness import Readiness
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.ledger import Known
from workbench.local_cloud.sandboxes.limits.usage_samples import UsageMeter
from workbench.local_cloud.sandboxes.network.connect_tokens import ConnectEntry
from workbench.local_cloud.sandboxes.network.egress_proxy import EgressProxy
from workbench.local_cloud.sandboxes.network.tunnels import Tunnels
from workbench.local_cloud.sandboxes.network.web_function_access import WebWays
from workbench.local_cloud.volumes.working_copies import WorkingCopy

ENTRYPOINT_EXEC_ID = "entrypoint"
_AUTHOR_TAGS_CHARS = 200


@dataclass(eq=False)
class Record(Known):
    """One sandbox: what is known of it, and while it runs all that it holds."""

    sandbox: Sandbox | None = None
    mounts: dict[str, WorkingCopy] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Task[None] | None = None
    proxy: EgressProxy | None = None
    web_ways: WebWays | None = None
    refusals: int = 0
    files: Path | None = None
    mounted: set[str] = field(default_factory=set)  # where images are mounted
    usage: UsageMeter = field(default_factory=UsageMeter)
    logging: list[asyncio.Future[None]] = field(default_factory=list)
    tunnels: Tunnels | None = None
    connect: ConnectEntry | None = None
    readiness: Readiness | None = None

    @property
    def entrypoint(self) -> Exec | None:
        """The program that the sandbox was created with."""
        return self.sandbox.execs.find(ENTRYPOINT_EXEC_ID) if self.sandbox is not None else None


def author_of(record: Record, exec_id: str = "") -> str:
    """Who commits what a sandbox wrote, with the exec that asked and its tags: they say on whose behalf."""
    tags = "".join(f" {name}={value}" for name, value in sorted(record.tags.items()))
    asked = f" exec={exec_id}" if exec_id else ""
    return f"sandbox:{record.sandbox_id}{asked}{tags[:_AUTHOR_TAGS_CHARS]}"

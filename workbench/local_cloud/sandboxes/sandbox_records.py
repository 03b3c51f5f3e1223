"""The record of one sandbox, kept from its creation until long after its end."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from workbench.local_cloud.rootfs.layers import Root
from workbench.local_cloud.sandboxes.engine.execs import Exec
from workbench.local_cloud.sandboxes.engine.readiness import Readiness
from workbench.local_cloud.sandboxes.engine.running_sandbox import Sandbox
from workbench.local_cloud.sandboxes.ledger import Known
from workbench.local_cloud.sandboxes.limits.usage_samples import UsageMeter
from workbench.local_cloud.sandboxes.network.connect_tokens import ConnectEntry
from workbench.local_cloud.sandboxes.network.egress_proxy import EgressProxy
from workbench.local_cloud.sandboxes.network.tunnels import Tunnels
from workbench.local_cloud.sandboxes.network.web_function_access import WebFunctionAccess
from workbench.local_cloud.volumes.working_copies import WorkingCopy

ENTRYPOINT_EXEC_ID = "entrypoint"
_AUTHOR_TAGS_CHARS = 200


@dataclass(frozen=True)
class Mounted:
    """An image that is mounted in a sandbox: the path without links, and the number of its file system.

    That is 0 for a snapshot that is unpacked in the place of what was there.
    """

    inside: str
    device: int = 0


@dataclass(eq=False)
class Record(Known):
    """One sandbox: what is stored of it, and everything that it has while it runs.

    `mounts` are its working copies by mount path, `files` the directory with files of its other mounts, `root` its own
    root file system (None: it has this machine's). `ending` is the task that ends it, None until that begins; `ended`
    is set when it has a result. `refusals` counts connections that its egress policy refused, `logging` are the tasks
    that copy its output into the log.
    """

    sandbox: Sandbox | None = None
    mounts: dict[str, WorkingCopy] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Task[None] | None = None
    proxy: EgressProxy | None = None
    web_access: WebFunctionAccess | None = None
    refusals: int = 0
    files: Path | None = None
    root: Root | None = None
    mounted: dict[str, Mounted] = field(default_factory=dict)  # by the path that was asked for
    roots: list[Root] = field(default_factory=list)  # of all images that have ever been mounted in it
    usage: UsageMeter = field(default_factory=UsageMeter)
    logging: list[asyncio.Future[None]] = field(default_factory=list)
    tunnels: Tunnels | None = None
    connect: ConnectEntry | None = None
    readiness: Readiness | None = None

    @property
    def entrypoint(self) -> Exec | None:
        """The program that the sandbox was created with, None if it has none."""
        return self.sandbox.execs.find(ENTRYPOINT_EXEC_ID) if self.sandbox is not None else None


def author_of(record: Record, exec_id: str = "") -> str:
    """Return the author of a sandbox's commits: its id, the exec that asked for the commit, and the sandbox's tags."""
    tags = "".join(f" {name}={value}" for name, value in sorted(record.tags.items()))
    asked = f" exec={exec_id}" if exec_id else ""
    return f"sandbox:{record.sandbox_id}{asked}{tags[:_AUTHOR_TAGS_CHARS]}"

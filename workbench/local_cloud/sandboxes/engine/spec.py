"""What a sandbox is made from, and how its programs end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.local_cloud.sandboxes.limits.sandbox_limits import Limits

HOME = "/root"
DEFAULT_ENV = {
    "PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
    "HOME": HOME,
    "LANG": "C.UTF-8",
}


class IsolationUnavailableError(WorkbenchError):
    """This machine cannot isolate a sandbox; the message says why and which command fixes it."""  # noqa: D404  # the machine is meant


class SandboxStartFailedError(WorkbenchError):
    """Isolation works here, and yet this sandbox did not start."""


@dataclass(frozen=True)
class BindMount:
    """A directory of the host at a path inside."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """One sandbox: `uid` is the unprivileged host user it runs as when the cloud is root.

    `directories` are empty, writable and in memory, unless something is mounted there. `workdir` is made if it is not
    there. `python` is the image's own interpreter as it is seen inside, empty when it has none.
    """

    sandbox_id: str
    uid: int
    mounts: tuple[BindMount, ...] = ()
    directories: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = HOME
    python: str = ""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class ExitStatus:
    """How a program ended: exactly one of `code` and `signal` is set."""

    code: int | None = None
    signal: int | None = None

"""The specification from which a sandbox is made, the exit status of its programs, and the errors of a start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.local_cloud.rootfs.layers import Root
from workbench.local_cloud.sandboxes.limits.sandbox_limits import Limits
from workbench.local_cloud.sandboxes.limits.watchdog import Watched, Written

HOME = "/root"
DEFAULT_ENV = {
    "PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
    "HOME": HOME,
    "LANG": "C.UTF-8",
}


class SandboxStartFailedError(WorkbenchError):
    """A sandbox, or a program in it, could not be started, although isolation works; the message says why."""


@dataclass(frozen=True)
class BindMount:
    """A file or directory of the host that is bound to a path inside. `written` is as for `Watched`."""

    source: Path
    target: str
    read_only: bool = False
    written: Callable[[], Written | None] = lambda: None

    @property
    def watched(self) -> Watched:
        """The mount as the watchdog sees it."""
        return Watched(self.source, self.written)


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """What a sandbox is made from. `uid` is the unprivileged host user as which it runs when the cloud is root.

    Every program has the variables of `env` below its own, and those of `fixed_env` over its own.

    `directories` are paths inside of empty, writable file systems in memory; a mount at the same path hides them. With
    `root` they are directories of that, made if they are missing.
    `workdir` is made if it does not exist. `python` is the path inside of the image's own interpreter, empty without
    one. With `root` the sandbox's root file system is that one, its programs start as the image's `user`
    (`name[:group]`, empty for root), `uid` is what root inside has outside, and `owner` the host user that owns the
    namespace.
    """

    sandbox_id: str
    uid: int
    mounts: tuple[BindMount, ...] = ()
    directories: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    fixed_env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = HOME
    python: str = ""
    root: Root | None = None
    owner: int = 0
    user: str = ""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class ExitStatus:
    """How a program ended: exactly one of `code` and `signal` is set."""

    code: int | None = None
    signal: int | None = None

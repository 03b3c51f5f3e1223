"""Who keeps a mount busy: processes with a file of it open or working in it. What a refused reload must name.

Asked from outside of the processes' namespaces; the kernel tells paths as they see them themselves.
"""

from dataclasses import dataclass
from pathlib import Path

import psutil

from workbench.local_cloud.base.host_processes import family

_SHOWN = 5


@dataclass(frozen=True)
class Holder:
    """A process and what of the mount it holds; `pid` is its id inside, `what` is `open` or `cwd`."""

    pid: int
    name: str
    path: str
    what: str

    def __str__(self) -> str:
        does = "works in" if self.what == "cwd" else "has open"
        return f"{self.name} (pid {self.pid}) {does} {self.path}"


def holders(pid: int, mount_path: str) -> list[Holder]:
    """Everything that a process and its descendants hold below a mount's path."""
    found: list[Holder] = []
    for process in family(pid):
        try:
            name = process.name()
        except psutil.Error:
            continue
        inside = _inner_pid(process.pid)
        held = [("cwd", Path(f"/proc/{process.pid}/cwd")), *(("open", link) for link in _descriptors(process.pid))]
        for what, link in held:
            try:
                path = str(link.readlink())
            except OSError:
                continue
            if path == mount_path or path.startswith(mount_path.rstrip("/") + "/"):
                found.append(Holder(inside, name, path, what))
    return found


def sentence(found: list[Holder]) -> str:
    """What Modal says of a busy volume, and who it is."""
    told = "; ".join(str(holder) for holder in found[:_SHOWN])
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"volume busy: there are open files preventing the operation: {told}{more}"


def _descriptors(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def _inner_pid(pid: int) -> int:
    """The id that a process has in its own namespace."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    except (OSError, ValueError):
        pass
    return pid

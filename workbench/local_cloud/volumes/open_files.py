"""Finds the processes that keep a mount busy: they have a file of it open or their working directory in it.

A reload that is refused names them. /proc is read from outside of the processes' namespaces; it shows the paths as the
processes see them.
"""

from dataclasses import dataclass
from pathlib import Path

import psutil

from workbench.local_cloud.base.host_processes import family

_SHOWN = 5


@dataclass(frozen=True)
class Holder:
    """A path that a process holds; `pid` is the id in its own namespace, `what` is `open` or `cwd`."""

    pid: int
    name: str
    path: str
    what: str

    def __str__(self) -> str:
        does = "works in" if self.what == "cwd" else "has open"
        return f"{self.name} (pid {self.pid}) {does} {self.path}"


def holders(pid: int, mount_path: str) -> list[Holder]:
    """Return every path at or below a mount's path that a process and its descendants hold."""
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
    """Return Modal's message for a busy volume, followed by up to five of its holders."""
    named = "; ".join(str(holder) for holder in found[:_SHOWN])
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"volume busy: there are open files preventing the operation: {named}{more}"


def _descriptors(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def _inner_pid(pid: int) -> int:
    """Return the id that a process has in its own namespace, or `pid` if it cannot be found."""
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():  # a name may be any bytes
            if line.startswith(b"NSpid:"):
                return int(line.split()[-1])
    except (OSError, ValueError):
        pass
    return pid

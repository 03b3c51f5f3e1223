"""Looks for what a local cloud or a sandbox may leave on a machine, and describes each thing in words.

Only things of one private directory, of this process's descendants, or of given process ids count, because other clouds
may be running on the same machine.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from workbench.local_cloud import PREFIX
from workbench.soak import orphans
from workbench.soak.soak_failures import SoakFailedError

_CGROUPS = Path("/sys/fs/cgroup")
_NAMESPACES = ("mnt", "net", "pid", "user")
_PAUSE_S = 0.05
_COMMAND_CHARACTERS = 120


@dataclass
class Scene:
    """Where to look: for uses of the private directory `root`, for entries of `watched` directories, and for control
    groups of the processes `owners`.
    """

    root: Path
    watched: tuple[Path, ...]
    owners: set[int] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)

    def look(self) -> frozenset[str]:
        """Everything that is there now, each thing as a text."""
        own = {name: _link(f"/proc/self/ns/{name}") for name in _NAMESPACES}
        found = set(self._rest())
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())[:_COMMAND_CHARACTERS] or process.name()
                found.add(f"process {process.pid}: {command}")
            for name, ours in own.items():
                theirs = _link(f"/proc/{process.pid}/ns/{name}")
                if theirs not in (None, ours):
                    found.add(f"namespace {theirs} of process {process.pid}")
        return frozenset(found)

    def expect(self, before: frozenset[str], when: str, *, timeout_s: float) -> float:
        """Wait until nothing is there that was not there `before`; returns how many seconds it took.

        Raises SoakFailedError after `timeout_s`; its message begins with `when`, which says what has left the things.
        """
        started = time.monotonic()
        while left := self.look() - before:
            if time.monotonic() > started + timeout_s:
                some = "; ".join(sorted(left)[:3]) + (" …" if len(left) > 3 else "")
                raise SoakFailedError(f"{when} left {len(left)} things behind: {some}", left=sorted(left))
            time.sleep(_PAUSE_S)
        return time.monotonic() - started

    def _rest(self) -> Iterator[str]:
        for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208  # numbers, not paths
            if (
                target := _link(f"/proc/self/fd/{descriptor}")
            ) is not None:  # None for the listing's own descriptor, which is closed by now
                yield f"descriptor {descriptor}: {target}"
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            if str(self.root) in line or " nsfs " in line:
                yield f"mount {line.split()[4]}"
        for directory in self.watched:
            with contextlib.suppress(FileNotFoundError):
                yield from (f"directory entry {path}" for path in directory.iterdir())
        yield from (f"control group {path}" for path in self._groups())
        if self.ports:
            for connection in psutil.net_connections("tcp"):
                _, port = connection.laddr or ("", 0)
                if connection.status == psutil.CONN_LISTEN and port in self.ports:
                    yield f"listening socket at port {port}"

    def _groups(self) -> Iterator[str]:
        names = tuple(f"{PREFIX}{owner}-" for owner in self.owners)
        for directory, children, _ in os.walk(_CGROUPS):
            parent = directory.rpartition("/")[2].startswith(names)
            yield from (f"{directory}/{child}" for child in children if parent or child.startswith(names))

    def _processes(self) -> Iterator[psutil.Process]:
        """Descendants of this process, and processes with the private directory in their command line or mounts."""
        descendants = {process.pid: process for process in orphans.alive()}
        yield from descendants.values()
        mounts = _link("/proc/self/ns/mnt")
        for process in psutil.process_iter():
            if process.pid in descendants or process.pid == os.getpid():
                continue
            with contextlib.suppress(psutil.Error, OSError):
                if any(str(self.root) in word for word in process.cmdline()) or (
                    _link(f"/proc/{process.pid}/ns/mnt") != mounts
                    and str(self.root) in Path(f"/proc/{process.pid}/mountinfo").read_text(encoding="utf-8")
                ):
                    yield process


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115  # not a path: "net:[4026531840]"
    except OSError:
        return None

"""Control groups (cgroups) for sandboxes, where this machine allows them: v2, v1, or v1 with v2 beside it (hybrid).

Whether they work is found out at the start, by making and removing a group with limits. Where they do not, the watchdog
enforces what it can. Groups are made below this process's own group, so that a limit of that still holds.

All sandboxes share one parent group, so that the kernel gives them together one share of the CPUs. Without it, a
hundred programs would get a hundred shares beside the cloud's one, and the cloud would not answer for seconds.

A cloud holds a lock on its parent group for as long as it lives: the groups are those of the whole machine, and a cloud
need not see the processes of another one, as in a container with process ids of its own.
"""

import contextlib
import fcntl
import os
import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.local_cloud.sandboxes.limits.sandbox_limits import Limits

PREFIX = "workbench-"
_CLOUD = "-cloud"  # in the names of parent groups, after the process id of whoever has made it
NOTE = "cgroups"  # the file that names this cloud's parent groups, for the janitor
_ROOT = Path("/sys/fs/cgroup")
_V1 = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
_REMOVE_S = 5.0
_FEW = 16  # processes
_TRIES = 3  # a cloud that looks for what others have left may take a new group for such

Version = Literal["v2", "v1", "none"]


@dataclass(frozen=True)
class Group:
    """One sandbox's group: a directory in each controller's hierarchy, or a single one with v2."""

    version: Version
    directories: tuple[Path, ...]

    def add(self, pid: int) -> None:
        """Move a process into the group, and with it all that it starts later. Raises OSError."""
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(pid))

    def out_of_memory_kills(self) -> int:
        """Return how many processes of the group the kernel has killed because its memory was used up."""
        name = "memory.events" if self.version == "v2" else "memory.oom_control"
        for directory in self.directories:
            with contextlib.suppress(OSError, ValueError):
                facts = dict(line.split() for line in _read(directory / name).splitlines())
                return int(facts.get(b"oom_kill", 0))
        return 0

    def lift_cpu_limit(self) -> None:
        """Move killed processes out of a group with a CPU limit (v1), if they are many, so that they end faster.

        Under its limit a fork bomb takes twenty times as long to end. To move a few takes longer than their end. Blocks
        for a moment; never raises.
        """
        for directory in self.directories:
            if (directory / "cpu.cfs_quota_us").exists():
                crowd = _processes(directory)
                for pid in crowd if len(crowd) > _FEW else ():
                    with contextlib.suppress(OSError):
                        (directory.parent.parent / "cgroup.procs").write_text(str(pid))

    def kill(self) -> None:
        """Kill every process of the group. Never raises."""
        for directory in self.directories:
            with contextlib.suppress(OSError):
                (directory / "cgroup.kill").write_text("1")
                continue
            for pid in _processes(directory):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Kill the group's processes and remove it. Blocks for up to 5 s; never raises. Idempotent."""
        deadline = time.monotonic() + _REMOVE_S
        for directory in self.directories:
            while directory.is_dir():
                try:
                    directory.rmdir()
                except (FileNotFoundError, PermissionError):
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        break
                    self.kill()
                    time.sleep(0.002)  # the kernel does not tell when the last process of a group has ended


@dataclass(frozen=True)
class _Place:
    """A directory in which groups may be made, in the hierarchy of one controller, or in that of v2 ("all")."""

    controller: str
    directory: Path


class Cgroups:
    """Makes groups for the sandboxes of one cloud; `version` is "none" where this machine does not allow any."""

    def __init__(self, version: Version, places: tuple[_Place, ...]) -> None:
        self.version = version
        self._places = places
        self._locks: list[int] = []

    @property
    def directories(self) -> tuple[Path, ...]:
        """The parent directories of this cloud's groups, one per hierarchy."""
        return tuple(place.directory for place in self._places)

    @classmethod
    def detect(cls) -> "Cgroups":
        """Find out by trying which version works, and make the parent group of this process's sandboxes."""
        candidates: tuple[tuple[Version, tuple[_Place, ...]], ...] = (("v2", _own_v2()), ("v1", _own_v1()))
        for version, owns in (one for one in candidates if one[1] for _ in range(_TRIES)):
            name = f"{PREFIX}{os.getpid()}{_CLOUD}{secrets.token_hex(6)}"
            found = cls(version, tuple(_Place(own.controller, own.directory / name) for own in owns))
            try:
                for place in found._places:
                    place.directory.mkdir()
                    found._locks.append(_locked(place.directory))
                    if version == "v2":
                        _enable(place.directory.parent, "memory", "pids")
                        _enable(place.directory, "memory", "pids")
                        with contextlib.suppress(OSError):
                            _share_cpus(place.directory)
                found.create("probe", Limits() if version == "v2" else Limits(cpus=1)).remove()
            except OSError:
                found.close()
                continue
            return found
        return cls("none", ())

    def create(self, name: str, limits: Limits) -> Group:
        """Make a group with limits; with the version "none", a group without directories.

        Raises OSError when a limit cannot be set, and then leaves no group behind.
        """
        if limits.cpus is not None and self.version == "v2":
            _share_cpus(self._places[0].directory)  # raises OSError where the cpu controller may not be used
        group = Group(self.version, tuple(place.directory / f"{PREFIX}{name}" for place in self._places))
        try:
            for place, directory in zip(self._places, group.directories, strict=True):
                directory.mkdir()
                for file, value in _settings(place.controller, limits):
                    if (directory / file).exists():  # a kernel without swap accounting has no file for it
                        (directory / file).write_text(value)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> None:
        """Kill the processes of all groups of this cloud and remove the groups. Idempotent."""
        for place in self._places:
            _dissolve(place.directory)
        while self._locks:
            os.close(self._locks.pop())


def reap() -> int:
    """Remove the groups that clouds of this user have left which no longer run; returns how many there were."""
    found = 0
    for own in (*_own_v2(), *_own_v1()):
        for parent in own.directory.glob(f"{PREFIX}*{_CLOUD}*"):
            with contextlib.suppress(OSError):  # its cloud runs, or it was removed meanwhile
                if parent.stat().st_uid != os.geteuid():
                    continue
                lock = _locked(parent)
                try:
                    _dissolve(parent)
                    found += 1
                finally:
                    os.close(lock)
    return found


def _locked(group: Path) -> int:
    """Lock a group for as long as the descriptor that this returns is open, in this process or in one forked from it.

    Raises OSError when another process has the lock, and when the group is not there any more.
    """
    descriptor = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        group.stat()
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _dissolve(parent: Path) -> None:
    with contextlib.suppress(OSError):
        for child in parent.iterdir():
            if child.is_dir():
                Group("none", (child,)).remove()
        parent.rmdir()


def _settings(controller: str, limits: Limits) -> list[tuple[str, str]]:
    quota = None if limits.cpus is None else max(1000, int(limits.cpus * _PERIOD_US))
    match controller:
        case "memory":
            memory = str(limits.memory_bytes)
            return [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)]
        case "pids":
            return [("pids.max", str(limits.processes))]
        case "cpu" if quota is None:
            return []
        case "cpu":
            return [("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", str(quota))]
        case _:
            found = [("memory.max", str(limits.memory_bytes)), ("memory.swap.max", "0")]
            found.append(("pids.max", str(limits.processes)))
            return found if quota is None else [*found, ("cpu.max", f"{quota} {_PERIOD_US}")]


def _own_v2() -> tuple[_Place, ...]:
    if not (_ROOT / "cgroup.controllers").exists():
        return ()  # no v2, or hybrid, where the v2 hierarchy has no controllers
    return (_Place("all", _below(_ROOT, _paths().get("", "/"))),)


def _own_v1() -> tuple[_Place, ...]:
    paths = _paths()
    if not all((_ROOT / name).is_dir() for name in _V1):
        return ()
    return tuple(_Place(name, _below(_ROOT / name, paths.get(name, "/"))) for name in _V1)


def _below(mount: Path, path: str) -> Path:
    """Return the directory of a group, or the hierarchy's root: in a container, the kernel may name a path outside."""
    place = mount / path.lstrip("/")
    return place if place.is_dir() else mount


def _paths() -> dict[str, str]:
    found = {}
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _share_cpus(parent: Path) -> None:
    _enable(parent.parent, "cpu")
    _enable(parent, "cpu")


def _enable(directory: Path, *controllers: str) -> None:
    (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))


def _read(path: Path) -> bytes:
    """Read a small file of a control group by three calls of the kernel: it is done all the time, for every sandbox."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _processes(directory: Path) -> list[int]:
    try:
        return [int(line) for line in (directory / "cgroup.procs").read_text(encoding="utf-8").split()]
    except OSError:
        return []

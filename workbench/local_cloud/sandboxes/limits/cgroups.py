"""The kernel's own limits, where this machine lets us set them: cgroup v2, v1, or v1 with v2 beside it (hybrid).

Decided once at start by making and removing a group with limits. Where that fails there are none, and the watchdog
enforces what it can. Groups lie below this process's own, so that a limit that somebody set for us still holds.

All sandboxes together take turns at the processors as one group, whatever they start: without it, a hundred programs in
sessions of their own are a hundred participants beside the cloud, and its streams stand still for seconds.
"""

import contextlib
import os
import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.local_cloud.base.host_processes import start_of
from workbench.local_cloud.sandboxes.limits.sandbox_limits import Limits

PREFIX = "workbench-"
NOTE = "cgroups"  # a file that names this cloud's groups, for whoever cleans up behind it
_ROOT = Path("/sys/fs/cgroup")
_V1 = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
_REMOVE_S = 5.0

Version = Literal["v2", "v1", "none"]


@dataclass(frozen=True)
class Group:
    """One sandbox's group: a directory for each hierarchy (one with v2)."""

    version: Version
    directories: tuple[Path, ...]

    def add(self, pid: int) -> None:
        """Move a process here, and with it all that it will start. Raises OSError."""
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(pid))

    def out_of_memory_kills(self) -> int:
        """How many processes the kernel has killed here because the group's memory was used up."""
        name = "memory.events" if self.version == "v2" else "memory.oom_control"
        for directory in self.directories:
            with contextlib.suppress(OSError, ValueError):
                facts = dict(line.split() for line in (directory / name).read_text().splitlines())
                return int(facts.get("oom_kill", 0))
        return 0

    def hurry(self) -> None:
        """Take what is dying out of its group's queue for CPUs, so that it dies at once.

        Behind a limit a fork bomb takes twenty times as long to end. Blocks for a moment; never raises.
        """
        for directory in self.directories:
            if (directory / "cpu.cfs_quota_us").exists():
                for pid in _processes(directory):
                    with contextlib.suppress(OSError):
                        (directory.parent.parent / "cgroup.procs").write_text(str(pid))

    def kill(self) -> None:
        """Kill every process that is still here. Never raises."""
        for directory in self.directories:
            with contextlib.suppress(OSError):
                (directory / "cgroup.kill").write_text("1")
                continue
            for pid in _processes(directory):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Remove the group once its processes are gone. Blocks for a moment; never raises. Idempotent."""
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
                    time.sleep(0.002)  # the kernel has no event for a group's last process here


@dataclass(frozen=True)
class _Place:
    """Where groups may be made: a directory of the hierarchy of one controller, or of v2's only one."""

    controller: str
    directory: Path


class Cgroups:
    """Makes groups for the sandboxes of one cloud; `version` is "none" where the machine allows none."""

    def __init__(self, version: Version, places: tuple[_Place, ...]) -> None:
        self.version = version
        self._places = places

    @property
    def directories(self) -> tuple[Path, ...]:
        """The parents of every group of this cloud."""
        return tuple(place.directory for place in self._places)

    @classmethod
    def detect(cls) -> "Cgroups":
        """Find out what works by doing it; a parent group for this process's sandboxes is made then."""
        candidates: tuple[tuple[Version, tuple[_Place, ...]], ...] = (("v2", _own_v2()), ("v1", _own_v1()))
        for version, owns in candidates:
            if not owns:
                continue
            name = f"{PREFIX}{_identity(os.getpid())}-{secrets.token_hex(3)}"
            found = cls(version, tuple(_Place(own.controller, own.directory / name) for own in owns))
            try:
                for place in found._places:
                    place.directory.mkdir()
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
        """Make a group with limits, an empty one where there are none. Raises OSError, and nothing is left then."""
        if limits.cpus is not None and self.version == "v2":
            _share_cpus(self._places[0].directory)  # raises where nobody may limit them
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
        """Remove every group of this cloud; what is left in them is killed. Idempotent."""
        for place in self._places:
            _dissolve(place.directory)


def reap() -> int:
    """Remove the groups of this user's clouds that are gone; returns how many there were. At start only."""
    found = 0
    for own in (*_own_v2(), *_own_v1()):
        for parent in own.directory.glob(f"{PREFIX}*-*-*"):
            with contextlib.suppress(OSError, ValueError):  # somebody else's, or gone meanwhile
                identity = parent.name.removeprefix(PREFIX).rpartition("-")[0]
                if parent.stat().st_uid == os.geteuid() and identity != _identity(int(identity.partition("-")[0])):
                    _dissolve(parent)
                    found += 1
    return found


def _identity(pid: int) -> str:
    """Name a process so that another one with the same number, later, is not taken for it."""
    started = start_of(pid)
    return f"{pid}-gone" if started is None else f"{pid}-{started.rpartition('/')[2]}"


def _dissolve(parent: Path) -> None:
    if parent.is_dir():
        for child in parent.iterdir():
            if child.is_dir():
                Group("none", (child,)).remove()
        with contextlib.suppress(OSError):
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
        return ()  # hybrid: the v2 hierarchy has no controllers there
    return (_Place("all", _below(_ROOT, _paths().get("", "/"))),)


def _own_v1() -> tuple[_Place, ...]:
    paths = _paths()
    if not all((_ROOT / name).is_dir() for name in _V1):
        return ()
    return tuple(_Place(name, _below(_ROOT / name, paths.get(name, "/"))) for name in _V1)


def _below(mount: Path, path: str) -> Path:
    """A process's own place; in a container the kernel may name one that is not mounted here."""
    place = mount / path.lstrip("/")
    return place if place.is_dir() else mount


def _paths() -> dict[str, str]:
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _share_cpus(parent: Path) -> None:
    _enable(parent.parent, "cpu")
    _enable(parent, "cpu")


def _enable(directory: Path, *controllers: str) -> None:
    (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))


def _processes(directory: Path) -> list[int]:
    try:
        return [int(line) for line in (directory / "cgroup.procs").read_text().split()]
    except OSError:
        return []

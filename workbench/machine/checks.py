"""Checks of this machine: what it has and what is missing, each result as data. No check changes anything.

Whether sandboxes can be isolated is tried out: one is started with the flags that the local cloud uses. The texts about
isolation also come from the local cloud.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from workbench.local_cloud import State, StateUnusableError, diagnosis
from workbench.machine import prerequisites

Status = Literal["ok", "info", "warn", "fail"]
PYTHON_NEEDED = (3, 11)
DISK_NEEDED_BYTES = 2 * 1024**3
_VERSION_TIMEOUT_S = 10


@dataclass(frozen=True)
class Finding:
    """What one check found; `fix` says what to do, and is empty when nothing needs to be done."""

    name: str
    status: Status
    found: str
    fix: str = ""

    def facts(self) -> dict[str, str]:
        """The finding as a dictionary, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """A finding without its name."""

    status: Status
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """One check. `look` is called with the state directory to check; an exception that it raises is a failed check."""

    name: str
    look: Callable[[State], Outcome]
    linux_only: bool = True


def examine(state: State) -> Iterator[Finding]:
    """Make all checks, and yield each finding as soon as it is known."""
    for check in CHECKS:
        if check.linux_only and sys.platform != "linux":
            continue
        try:
            outcome = check.look(state)
        except Exception as error:  # noqa: BLE001  # a machine may be broken in ways that no check foresees
            outcome = Outcome("fail", f"{type(error).__name__}: {error}", "unknown: please report this message")
        yield Finding(check.name, outcome.status, outcome.found, outcome.fix)


def _system(_: State) -> Outcome:
    if sys.platform != "linux":
        return Outcome("fail", sys.platform, prerequisites.LINUX_ONLY)
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
        facts = dict(line.split("=", 1) for line in lines if "=" in line)
        return Outcome("ok", facts["PRETTY_NAME"].strip('"'))
    except (OSError, KeyError):
        return Outcome("ok", "Linux")


def _python(_: State) -> Outcome:
    needed = ".".join(map(str, PYTHON_NEEDED))
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_NEEDED:
        return Outcome("fail", found, f"install Python {needed} or newer, e.g.: uv python install {needed}")
    return Outcome("ok", found)


def _sdk(_: State) -> Outcome:
    from workbench.local_cloud import SDK_VERSION

    found = metadata.version("modal")
    if found != SDK_VERSION:
        return Outcome("fail", f"{found}, the local cloud speaks {SDK_VERSION}", f"pip install modal=={SDK_VERSION}")
    return Outcome("ok", found)


def _bubblewrap(_: State) -> Outcome:
    path = shutil.which("bwrap")
    if path is None:
        return _missing("bubblewrap")
    said = _said(path, "--version")
    found = re.search(r"(\d+)\.(\d+)(\.\d+)?", said)
    if found is None:
        return Outcome("warn", f"{path} does not tell its version", "see isolation: it decides")
    if (int(found[1]), int(found[2])) < diagnosis.BUBBLEWRAP_NEEDED:
        old = diagnosis.too_old(found[0])
        return Outcome("fail", old.reason, old.fix)
    return Outcome("ok", f"{found[0]} ({path})")


def _isolation(_: State) -> Outcome:
    """Check that a sandbox can be started."""
    needed = [item.package for item in prerequisites.RUN if item.package != "git" and not item.present()]
    if needed:
        return Outcome("fail", f"not tried without {' and '.join(needed)}", prerequisites.installation(*needed))
    from workbench.local_cloud import Engine, IsolationUnavailableError

    async def probe(root: Path) -> None:
        engine = Engine(root / "sandboxes")
        try:
            await engine.probe()
        finally:
            await engine.aclose()

    with tempfile.TemporaryDirectory(prefix="workbench-doctor-") as directory:
        Path(directory).chmod(0o711)  # as root, sandboxes have users of their own
        try:
            asyncio.run(probe(Path(directory)))
        except IsolationUnavailableError as error:
            if error.__cause__ is None:  # refused before bubblewrap was started, so there is no output of it
                return Outcome("fail", str(error), "as that says")
            found = diagnosis.diagnose(str(error.__cause__))
            return Outcome("fail", found.reason, found.fix)
    return Outcome("ok", "a sandbox started with user, mount, process and network namespaces and a seccomp filter")


def _cgroups(_: State) -> Outcome:
    from workbench.local_cloud import Cgroups

    found = Cgroups.detect()
    found.close()
    if found.version == "none":
        return Outcome(
            "warn",
            "none can be written: a watchdog enforces limits instead, and a hostile job can slow down everything here",
            "nothing, or run it as root",
        )
    return Outcome("ok", f"{found.version}: the kernel limits memory, processes and CPUs of sandboxes")


def _volumes(state: State) -> Outcome:
    """Check how the mounts of volumes are made: the local cloud tries the same when it starts."""
    from workbench.local_cloud import why_without_overlay

    why = why_without_overlay(state.nearest)
    if why:
        return Outcome("info", f"each mount copies all files of its directory: {why}")
    exception = "" if os.geteuid() == 0 else "; small directories are copied, and those of others cannot be renamed"
    return Outcome(
        "ok", f"mounts are overlays: their cost follows what a job writes, not the size of a project{exception}"
    )


def _claude(_: State) -> Outcome:
    lacking = [name for name in ("node", "npm") if shutil.which(name) is None]
    if not lacking:
        return Outcome("ok", "npm can install the Claude CLI")
    lost = f"{' and '.join(lacking)} missing: deployments are without the Claude CLI, jobs that give it a prompt fail"
    return Outcome("warn", lost, prerequisites.installation("nodejs", "npm"))


def _state(state: State) -> Outcome:
    try:
        state.try_out()
    except StateUnusableError as error:
        return Outcome("fail", error.reason, error.fix)
    return Outcome("ok", str(state.root) if state.root.exists() else f"{state.root}, to be made")


def _disk(state: State) -> Outcome:
    free = shutil.disk_usage(state.nearest).free
    found = f"{free / 1024**3:,.1f} GB free at {state.nearest}"
    if free < DISK_NEEDED_BYTES:
        return Outcome("warn", found, "make room, or set WORKBENCH_STATE_DIR to another disk")
    return Outcome("ok", found)


def _cloud(state: State) -> Outcome:
    running = state.running()
    if running is None:
        return Outcome("info", "not running; most commands start it, as does: workbench cloud start")
    return Outcome("info", f"running at {running.url} (pid {running.pid})")


def _package(name: str, *, status: Status = "fail") -> Callable[[State], Outcome]:
    """Make the check of one prerequisite; `status` is the result when it is missing."""
    (item,) = (item for item in prerequisites.TEST if item.package == name)

    def look(_: State) -> Outcome:
        return Outcome("ok", "present") if item.present() else _missing(name, status=status)

    return look


def _roots(state: State) -> Outcome:
    """Check that root file systems can be made, in the file system of the state directory."""
    if any(item.package == "bubblewrap" and not item.present() for item in prerequisites.RUN):
        return Outcome("info", "not tried without bubblewrap", prerequisites.installation("bubblewrap"))
    from workbench.local_cloud import Layers, has_pip, kept_bases, why_none

    beside = next(path for path in (state.root, *state.root.parents) if path.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".workbench-doctor-", dir=beside) as directory:
            Path(directory).chmod(0o711)
            problem = asyncio.run(why_none(Layers(Path(directory) / "rootfs")))
    except OSError as error:
        return Outcome("info", f"not tried: {error.strerror}", "see state directory: it decides")
    if problem:
        reason, _, fix = problem.partition(" Run: ")
        return Outcome(
            "warn", f"sandboxes and functions share this machine's system: {reason}", fix or "see the reason"
        )
    if unusable := kept_bases.problem():
        reason, _, fix = unusable.partition(" Run: ")
        return Outcome("warn", f"each cloud copies this machine's base for itself: {reason}", fix or "see the reason")
    if not has_pip():
        return Outcome(
            "warn",
            "sandboxes and images have no pip: this machine has none to give them",
            prerequisites.installation("python3-pip"),
        )
    bases = len(kept_bases.kept())
    found = (
        f"{bases} bases are kept for them" if bases else "the first one waits some seconds for its base to be copied"
    )
    return Outcome("ok", f"sandboxes and functions have their own, by overlayfs; {found}")


def _missing(package: str, *, status: Status = "fail") -> Outcome:
    (item,) = (item for item in prerequisites.TEST if item.package == package)
    return Outcome(status, f"missing: {item.why}", prerequisites.installation(package))


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


CHECKS = (
    Check("operating system", _system, linux_only=False),
    Check("Python", _python, linux_only=False),
    Check("modal SDK", _sdk, linux_only=False),
    Check("bubblewrap", _bubblewrap),
    Check("libseccomp", _package("libseccomp2")),
    Check("system Python", _package("python3")),
    Check("isolation", _isolation),
    Check("root file systems", _roots),
    Check("control groups", _cgroups),
    Check("git", _package("git")),
    Check("Claude CLI", _claude),
    Check("Chromium", _package("chromium", status="warn")),
    Check("state directory", _state),
    Check("disk", _disk),
    Check("volumes", _volumes),
    Check("local cloud", _cloud),
)

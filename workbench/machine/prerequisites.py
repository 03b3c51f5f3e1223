"""The programs and libraries that the operating system must provide, and how to install them on Debian and Ubuntu.

What is missing is installed, after saying so, if this process may (as root or with password-less sudo); otherwise the
command to install it is given.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import dataclass

from workbench.errors import WorkbenchError
from workbench.local_cloud import MORE, system_python

LINUX_ONLY = "The local cloud needs Linux: run it inside a Linux VM such as Lima or Docker Desktop"
_INSTALL_TIMEOUT_S = 900


class PrerequisitesMissingError(WorkbenchError):
    """Something is missing that must be installed by hand; the message has the command for it."""


@dataclass(frozen=True)
class Prerequisite:
    """One program or library: the package that has it, and what it is needed for (`why`)."""

    package: str
    why: str
    present: Callable[[], bool]


def _chromium() -> bool:
    return any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))


RUN = (
    Prerequisite("bubblewrap", "isolates sandboxes", lambda: shutil.which("bwrap") is not None),
    Prerequisite("libseccomp2", "filters the system calls of sandboxes", lambda: find_library("seccomp") is not None),
    Prerequisite("git", "git jobs in sandboxes", lambda: shutil.which("git") is not None),
    Prerequisite("python3", "runs the agent and Python jobs inside sandboxes", lambda: system_python() is not None),
)
TEST = (*RUN, Prerequisite("chromium", "the browser of the JupyterLab tests", _chromium))


def ensure(wanted: tuple[Prerequisite, ...] = RUN, *, install: bool = True, say: Callable[[str], None] = print) -> None:
    """Install what is missing of `wanted`; `say` is called with a line for each. Raises PrerequisitesMissingError.

    Without `install` nothing is installed, and the error has the command.
    """
    if sys.platform != "linux":
        raise PrerequisitesMissingError(f"{LINUX_ONLY} {MORE}")
    missing = [item for item in wanted if not item.present()]
    if not missing:
        return
    packages = [item.package for item in missing]
    command = installation(*packages)
    prefix = _privilege() if install else None
    if shutil.which("apt-get") is None or prefix is None:
        raise PrerequisitesMissingError(f"Missing: {', '.join(packages)}. Run: {command} {MORE}")
    for item in missing:
        say(f"installing {item.package}: {item.why}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            [*prefix, *arguments], env=env, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise PrerequisitesMissingError(f"'{' '.join(arguments)}' failed: {reason[0]}. Run: {command}")
    still = [item.package for item in wanted if not item.present()]
    if still:
        raise PrerequisitesMissingError(f"Still missing after installation: {', '.join(still)}. {MORE}")


def installation(*packages: str) -> str:
    """The command that installs packages on Debian and Ubuntu."""
    return f"sudo apt-get update && sudo apt-get install -y {' '.join(packages)}"


def _privilege() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    allowed = subprocess.run(["sudo", "-n", "true"], capture_output=True, timeout=10, check=False)
    return ["sudo", "-n"] if allowed.returncode == 0 else None

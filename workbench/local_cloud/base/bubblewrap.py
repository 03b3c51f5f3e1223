"""Finds bubblewrap, the program that isolates everything that the cloud runs, and names what is missing."""

import shutil
import sys

from workbench.errors import WorkbenchError


class IsolationUnavailableError(WorkbenchError):
    """This machine cannot isolate a sandbox; the message says why and which command fixes it."""  # noqa: D404  # the machine is meant


def bubblewrap() -> str:
    """Return the path of the bubblewrap program; raises IsolationUnavailableError when there is none."""
    if sys.platform != "linux":
        raise IsolationUnavailableError("Sandboxes need Linux. Run this inside a Linux VM (Lima, Docker Desktop).")
    found = shutil.which("bwrap")
    if found is None:
        raise IsolationUnavailableError("bubblewrap is not installed. Run: sudo apt-get install -y bubblewrap")
    return found

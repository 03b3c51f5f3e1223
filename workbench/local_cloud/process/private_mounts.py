"""Gives the cloud's process mounts of its own, where it can make overlays: root at once, others as the kernel allows.

An ordinary user may mount only in a user namespace, so the cloud moves into one and stays the same user there. Whether
all of that works here, and a sandbox starts from there, is tried by another process first.
"""

import os
import subprocess
import sys
from pathlib import Path

from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError, bubblewrap
from workbench.local_cloud.rootfs import user_namespace
from workbench.local_cloud.rootfs.ids import NoRangeError, ids
from workbench.local_cloud.volumes import overlay_mounts

_TRY_S = 30
_PROGRAM = "import sys; from workbench.local_cloud.process import private_mounts as tried; tried.tell(sys.argv[1])"


def take_private_mounts(directory: Path) -> str:
    """Give this process mounts of its own, which the host's do not get; returns why that is not possible, "" if it is.

    To be called in the main thread before any other is started. Mounts of the host still appear here. `directory` is
    one that only this user may enter, for as long as this process runs. Raises LaunchError, OSError.
    """
    if os.geteuid() == 0:
        return _taken()
    if why := why_without_overlay(directory):
        return why
    if why := _taken():
        return why
    if (rows := _rows()) is not None:
        user_namespace.write_maps(rows, directory)
    return ""


def why_without_overlay(directory: Path) -> str:
    """Return why there can be no overlays below a directory, "" if there can; another process tries it."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(directory)],
            capture_output=True,
            text=True,
            timeout=_TRY_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"it could not be tried ({error})"
    return done.stdout


def tell(directory: str) -> None:
    """Try all of it in this process, and write why it does not work to standard output."""
    sys.stdout.write(_taken() or overlay_mounts.why_unusable(Path(directory)) or _why_no_sandbox())


def _taken() -> str:
    try:
        if os.geteuid() == 0:
            overlay_mounts.unshare()
        else:
            user_namespace.enter(_rows())
    except OSError as error:
        return f"the kernel does not let this process have mounts of its own ({error.strerror})"
    return ""


def _rows() -> user_namespace.Rows | None:
    """Return the ids of root file systems, None where there are none: images cannot have one then."""
    try:
        found = ids()
    except NoRangeError:
        return None
    return {"uid": found.uid, "gid": found.gid}


def _why_no_sandbox() -> str:
    """Start an empty sandbox from here, which for an ordinary user is a namespace below another one."""
    options = ["--unshare-user", "--unshare-pid", "--disable-userns", "--ro-bind", "/", "/", "--proc", "/proc"]
    try:
        command = [bubblewrap(), *options, "--dev", "/dev", "true"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TRY_S, check=False)
    except (OSError, subprocess.SubprocessError, IsolationUnavailableError) as error:
        return f"no sandbox starts in mounts of its own ({error})"
    return "" if done.returncode == 0 else f"no sandbox starts in mounts of its own ({done.stderr.strip()[:300]})"

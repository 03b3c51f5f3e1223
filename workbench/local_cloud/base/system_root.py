"""The host's system as guests see it: the root that function containers and image builds share, and its Python."""

import os
import sys
from pathlib import Path

from workbench.local_cloud.base.programs import RUN_MARK

_ETC = (
    "ssl",
    "ca-certificates",
    "resolv.conf",
    "hosts",
    "passwd",
    "group",
    "nsswitch.conf",
    "localtime",
    "ld.so.cache",
    "alternatives",
    "mime.types",
)


def system_root() -> list[str]:
    """Return bubblewrap's argv for a root that has the host's system read-only and none of its users' files."""
    argv = ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", "modal"]
    argv += ["--uid", str(os.getuid()), "--gid", str(os.getgid()), "--cap-drop", "ALL", "--die-with-parent"]
    argv += ["--unsetenv", RUN_MARK, "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        path = Path("/") / name
        if path.is_symlink():
            argv += ["--symlink", str(path.readlink()), f"/{name}"]
        elif path.is_dir():
            argv += ["--ro-bind", f"/{name}", f"/{name}"]
    for name in _ETC:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return [*argv, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108  # inside the container


def system_python() -> str | None:
    """Return the real path of the Python interpreter that every guest sees below /usr; None when there is none."""
    found = map(os.path.realpath, ("/usr/bin/python3", "/usr/local/bin/python3"))
    return next((path for path in found if path.startswith("/usr/") and Path(path).exists()), None)


def interpreter_paths() -> list[str]:
    """Return the directories outside of /usr that hold this interpreter and its packages."""
    found = {os.path.realpath(sys.executable), sys.prefix, sys.base_prefix}
    paths = {str(Path(path)) for path in found if not path.startswith("/usr/")}
    executable = os.path.realpath(sys.executable)
    return sorted(path for path in paths if not (path == executable and executable.startswith(sys.base_prefix)))

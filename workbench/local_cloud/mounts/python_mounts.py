"""Mounts of `add_python`: a Python that runs anywhere, taken from those that uv has installed on this machine.

The SDK asks for one by the name of a release of python-build-standalone, and copies its files to /usr/local. uv's are
builds of the same project; what uv has changed in them is taken back.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from workbench.local_cloud.base import host
from workbench.local_cloud.base.errors import invalid

PREFIX = "python-build-standalone."
PLACE = "/usr/local"  # where the SDK copies the files
_NAME = re.compile(r"python-build-standalone\.(\d{8})\.(3\.\d{1,2})\.\d+(?:rc\d+)?(t?)-gnu")
_INSTALLED = re.compile(r"cpython-(3\.\d+)\.(\d+)(?:(?:a|b|rc)\d+)?(\+freethreaded)?-linux-(\w+)-gnu")
_WITH_PYTHON = "20241008"  # before this release there was no program `python`, and the SDK links it
_MARKER = "EXTERNALLY-MANAGED"  # tells pip to install nothing
_ASK_S = 20


def directory_of(name: str) -> Path:
    """Return the directory of the installed Python that stands for a mount's name.

    Raises CloudError INVALID_ARGUMENT, which says how to install one.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise invalid(f"The mount {name[:100]!r} is not a Python that the local cloud knows: use another version.")
    series = match.group(2) + match.group(3)
    found = []
    place = _place()
    for path in place.iterdir() if place is not None and place.is_dir() else ():
        installed = _INSTALLED.fullmatch(path.name)
        if installed is None or path.is_symlink() or installed.group(4) != platform.machine():
            continue
        if series == installed.group(1) + ("t" if installed.group(3) else ""):
            found.append((int(installed.group(2)), path))
    if not found:
        raise invalid(
            f"add_python takes a Python that uv has installed on this machine, and there is no {series}: "
            f"run `uv python install {series}`, or use debian_slim(python_version=...)."
        )
    return max(found)[1]


def lay_out(name: str, root: Path) -> None:
    """Copy the files of a mount to `root`/python. Raises CloudError, OSError."""
    source = directory_of(name)
    target = root / "python"
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_MARKER))
    match = _NAME.fullmatch(name)
    if match is not None and match.group(1) < _WITH_PYTHON:
        (target / "bin" / "python").unlink(missing_ok=True)
    for path in (*target.glob("lib/python3*/_sysconfigdata*.py"), *target.glob("lib/pkgconfig/*.pc")):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes().replace(os.fsencode(source), PLACE.encode()))


def _place() -> Path | None:
    """Return the directory in which uv installs."""
    if given := os.environ.get("UV_PYTHON_INSTALL_DIR"):
        return Path(given)
    uv = host.uv()
    if uv is None:
        return None
    asked = subprocess.run(
        [uv, "python", "dir", "--no-config"], capture_output=True, text=True, timeout=_ASK_S, check=False, cwd="/"
    )
    return Path(asked.stdout.strip()) if asked.returncode == 0 and asked.stdout.strip() else None

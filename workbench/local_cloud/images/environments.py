"""The Python environment of a function's container on an image without packages: empty, then the cloud's packages.

It is like the one that an image with packages has, so that `pip install` works at run time, too, and what it installs
can be imported. The interpreter is the cloud's own, which the container sees at its place.
"""

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

from workbench.local_cloud.base import host
from workbench.local_cloud.base.system_root import interpreter_paths
from workbench.local_cloud.images import guest_pip, layouts

_STARTS_PIP = f'#!/bin/sh\nexec {layouts.PYTHON} -m pip "$@"\n'
_STARTS_PYTHON = f'#!/bin/sh\nexec {layouts.PYTHON} "$@"\n'
OFFER = "zz-local-cloud.pth"  # adds the cloud's packages to sys.path, behind the environment's own


def make_empty(part: Path) -> None:
    """Make an environment in a directory that holds files by their absolute paths inside. Raises OSError."""
    environment = layouts.below(part, layouts.VENV)
    python = os.path.realpath(sys.executable)
    packages = environment / "lib" / f"python{host.OWN_PYTHON}" / "site-packages"
    packages.mkdir(parents=True)
    (environment / "bin").mkdir()
    for name in ("python", "python3", f"python{host.OWN_PYTHON}"):
        (environment / "bin" / name).symlink_to(python)
    settings = {
        "home": str(Path(python).parent),
        "include-system-site-packages": "false",
        "version": ".".join(map(str, sys.version_info[:3])),
    }
    (environment / "pyvenv.cfg").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    (packages / OFFER).write_text(f"{packages_of_cloud()}\n")
    add_programs(part)
    for here, _, names in os.walk(part):
        Path(here).chmod(0o755)
        for path in (Path(here, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def why_unreadable() -> str:
    """Return why root inside, which is nobody outside, cannot read the cloud's own Python; empty if it can."""
    if os.geteuid() != 0:
        return ""
    places = [*interpreter_paths(), os.path.realpath(sys.executable), packages_of_cloud(), guest_pip.__file__]
    closed = [path for path in places if not Path(path).stat().st_mode & 0o004]
    return f"Other users may not read {closed[0]}. Run: chmod -R a+rX {closed[0]}" if closed else ""


def packages_of_cloud() -> str:
    """Return the directory with the cloud's own packages: a container's entrypoint needs them."""
    return str(metadata.distribution("modal").locate_file(""))


def add_programs(part: Path) -> None:
    """Add to an environment what every Python image has: `python` at its usual place, and pip."""
    for path in layouts.LOCAL_PROGRAMS:
        program = layouts.below(part, path)
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(_STARTS_PYTHON)
        program.chmod(0o755)
    environment = layouts.below(part, layouts.VENV)
    (packages,) = environment.glob("lib/python3*/site-packages")
    if not (packages / "pip").exists():
        shutil.copyfile(guest_pip.__file__, packages / "pip.py")
        for name in ("pip", "pip3"):
            (environment / "bin" / name).write_text(_STARTS_PIP)
            (environment / "bin" / name).chmod(0o755)

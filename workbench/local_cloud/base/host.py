"""What this machine has for images: Python interpreters, system packages, and the tools uv, pip and npm.

Functions here only look, they change nothing. Some start programs and block, so they are called from worker threads.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from workbench.local_cloud.base.system_root import system_python

OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# The SDK's debian_slim installs compilers for packages without wheels. They are not required here: most packages have
# wheels, and the build of one that has none fails with a clear error.
COMPILERS = frozenset(("gcc", "gfortran", "build-essential"))
_ASK_S = 20


@dataclass(frozen=True)
class Interpreter:
    """A Python from which environments can be made: its real path, and its prefix (empty if it is below /usr)."""

    path: str
    prefix: str


def is_system_python(version: str) -> bool:
    """Whether the Python below /usr that every guest sees has the version `X.Y`."""
    return (system_python() or "").endswith(f"/python{version}")


def is_own_system(base: str) -> bool:
    """Whether a base image such as `debian:bookworm-slim` is the same release of the system as this machine's."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return False
    name, _, tag = base.removeprefix("docker.io/").removeprefix("library/").partition(":")
    versions = {release.get("VERSION_ID", ""), release.get("VERSION_CODENAME", "")} - {""}
    return name == release["ID"] and tag.removesuffix("-slim") in versions


def missing_system_packages(wanted: list[str]) -> list[str]:
    """Return those Debian packages that are not installed, and of which no program of that name is found either."""
    names = [name.partition("=")[0].partition(":")[0] for name in wanted]
    return [name for name in names if name not in COMPILERS and not _on_host(name)]


def _on_host(package: str) -> bool:
    if shutil.which(package):
        return True
    if shutil.which("dpkg-query") is None:
        return False
    query = ["dpkg-query", "-W", "-f=${Status}", "--", package]
    found = subprocess.run(query, capture_output=True, text=True, timeout=_ASK_S, check=False)
    return "install ok installed" in found.stdout


def interpreters(version: str) -> list[Interpreter]:
    """Return every Python of the version `X.Y` on this machine; those below /usr first, as all sandboxes see them."""
    found = [f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"]
    if version == OWN_PYTHON:
        found.append(str(Path(sys.base_prefix) / "bin" / f"python{version}"))
    if (tool := uv()) is not None:
        command = [tool, "python", "find", "--no-project", "--no-python-downloads", "--system", version]
        result = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=False, cwd="/")
        found.append(result.stdout.strip())
    found.append(shutil.which(f"python{version}") or "")
    unique: dict[str, Interpreter] = {}
    for path in found:
        real = os.path.realpath(path) if path else ""
        if real and _is_binary(Path(real)):
            prefix = "" if real.startswith("/usr/") else str(Path(real).parent.parent)
            unique.setdefault(real, Interpreter(real, prefix))
    return list(unique.values())


def python_versions() -> list[str]:
    """Return the Python versions `X.Y` that images can have here."""
    return [version for version in (f"3.{minor}" for minor in range(9, 16)) if interpreters(version)]


def uv() -> str | None:
    """Return the path of the `uv` program, None when there is none. Shims are passed over: they need other files."""
    beside = [Path(prefix) / "bin" / "uv" for prefix in (sys.prefix, sys.base_prefix)]
    on_path = [Path(directory) / "uv" for directory in os.get_exec_path()]
    named = [Path(os.environ["UV"])] if os.environ.get("UV") else []  # set by `uv run`
    return next((os.path.realpath(path) for path in (*named, *beside, *on_path) if _is_binary(path)), None)


def can_install() -> bool:
    """Whether Python packages can be installed, with uv or with pip (Debian's Python has no pip of its own)."""
    return uv() is not None or find_spec("ensurepip") is not None


def npm() -> tuple[str, str] | None:
    """Return the real paths of the programs `node` and `npm`; None when one of them is missing."""
    node, found = shutil.which("node"), shutil.which("npm")
    if node is None or found is None:
        return None
    return os.path.realpath(node), os.path.realpath(found)


def _is_binary(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF" and os.access(path, os.X_OK)
    except OSError:
        return False


def requirement_lines(text: str) -> list[str] | None:
    """Return the requirements in the text of a requirements file; None when it has options or continued lines."""
    found = []
    for line in text.splitlines():
        plain = re.sub(r"(^|\s)#.*$", "", line).strip()
        if plain.startswith("-") or plain.endswith("\\"):
            return None
        if plain:
            found.append(plain)
    return found

"""What this machine offers to images: interpreters, installed packages, system packages, and the tools that build.

Asks and looks; changes nothing. Its answers may take a moment, so it is called from worker threads.
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
# The SDK's debian_slim installs compilers for packages without wheels; wheels need none, and what has none says so.
_COMPILERS = frozenset(("gcc", "gfortran", "build-essential"))
_ASK_S = 20


@dataclass(frozen=True)
class Interpreter:
    """A Python that environments can be made from; `prefix` is where all of it lies, empty below /usr."""

    path: str
    prefix: str


def is_system_python(version: str) -> bool:
    """Whether the Python below /usr that every guest sees is of a version `X.Y`."""
    return (system_python() or "").endswith(f"/python{version}")


def is_own_system(base: str) -> bool:
    """Whether a base image, e.g. `debian:bookworm-slim`, is the system that this machine runs, in the same release."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return False
    name, _, tag = base.removeprefix("docker.io/").removeprefix("library/").partition(":")
    versions = {release.get("VERSION_ID", ""), release.get("VERSION_CODENAME", "")} - {""}
    return name == release["ID"] and tag.removesuffix("-slim") in versions


def missing_system_packages(wanted: list[str]) -> list[str]:
    """Which Debian packages are neither installed nor there as a program of that name."""
    names = [name.partition("=")[0].partition(":")[0] for name in wanted]
    return [name for name in names if name not in _COMPILERS and not _on_host(name)]


def _on_host(package: str) -> bool:
    if shutil.which(package):
        return True
    if shutil.which("dpkg-query") is None:
        return False
    query = ["dpkg-query", "-W", "-f=${Status}", "--", package]
    found = subprocess.run(query, capture_output=True, text=True, timeout=_ASK_S, check=False)
    return "install ok installed" in found.stdout


def interpreters(version: str) -> list[Interpreter]:
    """Every Python of a version `X.Y` here, best first: those below /usr are seen by all sandboxes."""
    found = [f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"]
    if version == OWN_PYTHON:
        found.append(str(Path(sys.base_prefix) / "bin" / f"python{version}"))
    if (tool := uv()) is not None:
        asked = [tool, "python", "find", "--no-project", "--no-python-downloads", "--system", version]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=_ASK_S, check=False, cwd="/")
        found.append(said.stdout.strip())
    found.append(shutil.which(f"python{version}") or "")
    unique: dict[str, Interpreter] = {}
    for path in found:
        real = os.path.realpath(path) if path else ""
        if real and _is_binary(Path(real)):
            prefix = "" if real.startswith("/usr/") else str(Path(real).parent.parent)
            unique.setdefault(real, Interpreter(real, prefix))
    return list(unique.values())


def python_versions() -> list[str]:
    """The versions `X.Y` that images can have here."""
    return [version for version in (f"3.{minor}" for minor in range(9, 16)) if interpreters(version)]


def uv() -> str | None:
    """The `uv` program itself, never a shim that needs the files of its manager."""
    beside = [Path(prefix) / "bin" / "uv" for prefix in (sys.prefix, sys.base_prefix)]
    on_path = [Path(directory) / "uv" for directory in os.get_exec_path()]
    named = [Path(os.environ["UV"])] if os.environ.get("UV") else []  # set by `uv run`
    return next((os.path.realpath(path) for path in (*named, *beside, *on_path) if _is_binary(path)), None)


def can_install() -> bool:
    """Whether anything here installs Python packages: uv, or pip, which Debian's Python comes without."""
    return uv() is not None or find_spec("ensurepip") is not None


def npm() -> tuple[str, str] | None:
    """The programs `node` and `npm`, both resolved; None when one of them is not here."""
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
    """The requirements of a requirements file that holds nothing else; None when it holds options."""
    found = []
    for line in text.splitlines():
        plain = re.sub(r"(^|\s)#.*$", "", line).strip()
        if plain.startswith("-") or plain.endswith("\\"):
            return None
        if plain:
            found.append(plain)
    return found

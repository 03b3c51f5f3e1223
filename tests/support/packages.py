"""Packages of Python and of Debian that tests make themselves, so that none is asked of an index."""

import hashlib
import subprocess
import tarfile
import textwrap
import zipfile
from io import BytesIO
from pathlib import Path


def wheel(directory: Path, name: str, version: str, source: str, *, scripts: str = "") -> Path:
    """Write a pure-Python wheel with one module; `scripts` is the text of its entry_points.txt."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    members = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": scripts,
    }
    members[f"{info}/RECORD"] = "".join(f"{member},,\n" for member in (*members, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return path


def source_archive(directory: Path, name: str, version: str, setup: str) -> Path:
    """Write a source distribution with its own build backend, which runs `setup` when it is built."""
    path = directory / f"{name}-{version}.tar.gz"
    backend = f"""
import os, zipfile
def get_requires_for_build_wheel(config_settings=None):
    return []
def build_wheel(directory, config_settings=None, metadata_directory=None):
    source = ""
{textwrap.indent(setup, "    ")}
    name = "{name}-{version}-py3-none-any.whl"
    info = "{name}-{version}.dist-info"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as archive:
        archive.writestr("{name}.py", source)
        archive.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        archive.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(info + "/RECORD", "")
    return name
"""
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n',
        "backend.py": backend,
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            item = tarfile.TarInfo(f"{name}-{version}/{member}")
            item.size = len(text.encode())
            archive.addfile(item, BytesIO(text.encode()))
    return path


def debian_repository(directory: Path, name: str, postinst: str) -> None:
    """Make a directory an archive that apt reads, of one package whose script `postinst` runs at its installation."""
    tree = directory / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = (
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: test <test@example.com>\nDescription: test\n"
    )
    (tree / "DEBIAN" / "control").write_text(control)
    (tree / "DEBIAN" / "postinst").write_text(f"#!/bin/sh\nset -e\n{postinst}\n")
    (tree / "DEBIAN" / "postinst").chmod(0o755)
    archive = directory / f"{name}.deb"
    command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(archive)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    data = archive.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    (directory / "Packages").write_text(f"{control}Filename: ./{archive.name}\nSize: {len(data)}\nSHA256: {sha256}\n")

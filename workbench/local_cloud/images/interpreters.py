"""Copies a Python that lies outside of /usr, so that an image holds all it needs: sandboxes see nothing of a home."""

import shutil
from pathlib import Path

# What runs nothing: the archives and tests of Python itself, and the packages that somebody installed beside it.
_LEFT_OUT = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "turtledemo", "config-*")


def copy_python(executable: Path, prefix: Path, destination: Path) -> None:
    """Copy an interpreter and its standard library; it must be seen at its old place. Replaces what is there."""
    name = executable.name
    if destination.exists():
        shutil.rmtree(destination)
    (destination / "bin").mkdir(parents=True)
    shutil.copy2(executable, destination / "bin" / name)
    shutil.copytree(prefix / "lib" / name, destination / "lib" / name, ignore=_LEFT_OUT, ignore_dangling_symlinks=True)
    (destination / "lib" / name / "site-packages").mkdir()
    for library in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(library, destination / "lib" / library.name)
    if (prefix / "include" / name).is_dir():
        shutil.copytree(prefix / "include" / name, destination / "include" / name)

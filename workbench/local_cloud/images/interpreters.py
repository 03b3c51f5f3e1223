"""Copies a Python that is outside of /usr into an image, because sandboxes do not see the directories that it is in."""

import shutil
from pathlib import Path

# Not needed to run programs: Python's own tests and build files, and packages that were installed beside it.
_LEFT_OUT = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "turtledemo", "config-*")


def copy_python(executable: Path, prefix: Path, destination: Path) -> None:
    """Copy an interpreter and its standard library to `destination`, replacing what is there.

    Guests must see the copy at `prefix`, its old place: it has that path built in. Raises OSError.
    """
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
